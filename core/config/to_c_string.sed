# Each line of a text as a piece of a C string literal.
s/\\/\\\\/g
s/"/\\"/g
s/.*/"&\\n"/
