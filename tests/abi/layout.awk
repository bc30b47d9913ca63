# Reads preprocessed C (cc -E -P) of the ABI headers and writes a C program that prints, for each struct, its size and
# alignment and for each field its offset, size and declaration, and the value of each constant.
#
# Fails, naming the struct, when one lacks its SL_ABI_STRUCT mark, does not begin with struct_size, ends in tail padding
# (where a later field would hide), or holds something that has no place in the ABI: a nested struct, a bit-field, or a
# type whose size depends on the compiler.
#
# -v macros=FILE  object-like macros, one "NAME body" a line, whose values are printed too
# Plain POSIX awk: mawk is what Debian has.

function complain(text) {
    print "layout: " text > "/dev/stderr"
    broken = 1
}

function trim(s) {
    gsub(/[ \t\n]+/, " ", s)
    sub(/^ /, "", s)
    sub(/ $/, "", s)
    return s
}

function quoted(s) {
    gsub(/\\/, "\\\\", s)
    gsub(/"/, "\\\"", s)
    return "\"" s "\""
}

# Splits s at separator characters outside all brackets; fills piece[1..n], returns n. The last piece counts if not blank.
function split_flat(s, separator, piece,    i, c, depth, n, current) {
    n = depth = 0
    current = ""
    for (i = 1; i <= length(s); i++) {
        c = substr(s, i, 1)
        if (index("([{", c)) depth++
        if (index(")]}", c)) depth--
        if (c == separator && depth == 0) {
            piece[++n] = trim(current)
            current = ""
        } else
            current = current c
    }
    if (trim(current) != "")
        piece[++n] = trim(current)
    return n
}

# The end of the bracket that opens at position from.
function closing(s, from,    i, c, depth) {
    for (i = from; i <= length(s); i++) {
        c = substr(s, i, 1)
        if (c == "{") depth++
        if (c == "}" && --depth == 0) return i
    }
    complain("unbalanced braces")
    return length(s)
}

function field(owner, declaration,    name, plain) {
    if (declaration ~ /[{}]/ || declaration ~ /(^| )union /) {
        complain(owner ": nested struct or union: " declaration)
        return
    }
    if (match(declaration, /\([ ]*\*[ ]*[A-Za-z_][A-Za-z0-9_]*/)) { # a function pointer: type (*name)(arguments)
        name = substr(declaration, RSTART, RLENGTH)
    } else {
        if (declaration ~ /:/)
            complain(owner ": bit-field: " declaration)
        plain = declaration
        gsub(/\[[^]]*\]/, "", plain)
        if (plain ~ /(^|[^A-Za-z0-9_])(int|long|short|unsigned|bool|_Bool|size_t|enum)([^A-Za-z0-9_]|$)/)
            complain(owner ": type without a fixed size: " declaration)
        name = trim(plain)
    }
    sub(/^.*[^A-Za-z0-9_]/, "", name)
    if (n_fields[owner] == 0 && declaration != "uint64_t struct_size")
        complain(owner ": does not begin with uint64_t struct_size")
    n_fields[owner]++
    last_field[owner] = name
    body = body "    FIELD(" owner ", " name ", " quoted(declaration) ")\n"
}

# One declaration may name several fields: `int64_t k, *v[2];` is split so that each has its own full declaration.
function declaration_of(owner, text,    part, n, i, type, stars) {
    n = split_flat(text, ",", part)
    field(owner, part[1])
    if (n == 1)
        return
    type = part[1]
    gsub(/\[[^]]*\]/, "", type)
    type = trim(type)
    sub(/[A-Za-z_][A-Za-z0-9_]*$/, "", type)
    while (type ~ /\* ?(const )?$/) # the star belongs to the first name only
        sub(/\* ?(const )?$/, "", type)
    for (i = 2; i <= n; i++)
        field(owner, trim(type) " " part[i])
}

function structure(name, text,    part, n, i) {
    order[++n_structs] = name
    body = body "    STRUCT(" name ")\n"
    n_fields[name] = 0
    n = split_flat(text, ";", part)
    for (i = 1; i <= n; i++)
        declaration_of(name, part[i])
}

function enumeration(text,    part, n, i, name) {
    n = split_flat(text, ",", part)
    for (i = 1; i <= n; i++) {
        name = part[i]
        sub(/[ =].*$/, "", name)
        if (name ~ /^SL_/ && name !~ /_END_$/)
            constants = constants "    CONSTANT(" name ")\n"
        else if (name ~ /^sl_.*_size_$/)
            marked[substr(name, 1, length(name) - 6)] = 1
    }
}

{ whole = whole $0 "\n" }

END {
    # Walk the top level: every statement ends with ';' outside brackets, `extern "C" {` does not occur in C.
    n = split_flat(whole, ";", statement)
    for (s = 1; s <= n; s++) {
        text = statement[s]
        if (text ~ /^(typedef )?struct sl_[a-z0-9_]* ?\{/) {
            name = text
            sub(/^(typedef )?struct /, "", name)
            sub(/ ?\{.*$/, "", name)
            open = index(text, "{")
            structure(name, substr(text, open + 1, closing(text, open) - open - 1))
        } else if (text ~ /^(typedef )?union sl_/) {
            complain("a union at top level: " text)
        } else if (text ~ /^(typedef )?enum( [a-zA-Z_0-9]*)? ?\{/) {
            open = index(text, "{")
            enumeration(substr(text, open + 1, closing(text, open) - open - 1))
        } else if (text ~ /^typedef .*sl_/ && text !~ /^typedef struct sl_[a-z0-9_]* sl_[a-z0-9_]*$/) {
            typedefs = typedefs "    puts(" quoted(text) ");\n"
        }
    }
    for (i = 1; i <= n_structs; i++) {
        if (!(order[i] in marked))
            complain(order[i] ": no SL_ABI_STRUCT after it")
        checks = checks "_Static_assert(SL_SIZE(" order[i] ") == SL_FIELD_END(" order[i] ", " last_field[order[i]] \
                 "), \"" order[i] ": SL_ABI_STRUCT does not name the last field, " last_field[order[i]] "\");\n" \
                 "_Static_assert(sizeof(" order[i] ") == SL_SIZE(" order[i] "), \"" order[i] \
                 ": tail padding; end it with a reserved field\");\n"
    }
    while ((getline line < macros) > 0) {
        name = line
        sub(/ .*$/, "", name)
        values = values "    MACRO(" name ")\n"
    }
    if (n_structs == 0)
        complain("no struct found")
    if (broken)
        exit 1
    print "#include <stdio.h>"
    print "#define STRUCT(T) printf(\"struct %s size %zu align %zu\\n\", #T, (size_t)SL_SIZE(T), _Alignof(T));"
    print "#define FIELD(T, f, text) \\"
    print "    printf(\"  %s.%s %zu %zu  %s\\n\", #T, #f, offsetof(T, f), sizeof(((T *)0)->f), text);"
    print "#define CONSTANT(c) printf(\"enum %s %lld\\n\", #c, (long long)c);"
    print "static void number(const char *name, long long v) { printf(\"macro %s %lld\\n\", name, v); }"
    print "static void text(const char *name, const char *v) { printf(\"macro %s \\\"%s\\\"\\n\", name, v); }"
    print "#define MACRO(m) _Generic((m), char *: text, const char *: text, default: number)(#m, m);"
    print checks
    print "int main(void) {"
    printf "%s%s%s%s", typedefs, body, constants, values
    print "    return 0;\n}"
}
