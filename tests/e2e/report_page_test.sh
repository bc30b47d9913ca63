#!/usr/bin/env bash
# The page of `sluice compare` in a browser without a screen, at 390 and 1200 px, light and dark: nothing scrolls sideways,
# names in pictures do not cover each other, a click on a heading sorts, text can be read. Speaks TAP.
#   report_page_test.sh SLUICE [FOLDER]   FOLDER: where the screenshots go; none: they are not kept
# Without chromium it is skipped, but in CI it fails.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../support/tap.sh"
sluice=$(cd "$(dirname "$1")" && pwd)/$(basename "$1") root=$(cd "$here/../.." && pwd) shots=${2:-$tap_tmp}

browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome)
if [ -z "$browser" ]; then
    if [ "${CI:-}" = true ]; then
        echo "chromium is missing" >"$tap_tmp/why"
        not_ok "the report in a browser" "$tap_tmp/why"
    else
        skip "the report in a browser" "there is no chromium"
    fi
    done_testing
    exit
fi

# ---- a report with everything that a page can hold --------------------------------------------------------------------
cd "$tap_tmp" || exit 1
configuration() { # name sections...
    local name=$1
    shift
    printf '; <b>%s</b> & "what" it does\n[model]\npath = %s/models/tiny\n' "$name" "$root" >"$name.ini"
    printf '%b' "$*" >>"$name.ini"
}
configuration dense
configuration a_window_with_a_rather_long_name '[kvcache.policy]\nplugin = streaming\nbudget = 48\ndecode_interval = 0\n'
configuration coded '[kvcache]\nplugin = kivi\nbits = 2\nresidual = 32\n'
configuration pages '[attention]\nplugin = quest\ntoken_budget = 64\ndense_layers = 1\n'
configuration copies '[speculation]\nplugin = prompt_lookup\n'
configuration packed '[quant]\nplugin = rtn\nbits = 4\n'
configuration refused '[attention]\nplugin = quest\n[kvcache]\nplugin = kivi\n'
printf 'One two three one two three one two\n' >prompts.txt
expect "a report is made" "$sluice" compare dense.ini a_window_with_a_rather_long_name.ini coded.ini pages.ini copies.ini packed.ini \
    refused.ini --text "$root/recipes/golden/prose_watson.txt" --prompts prompts.txt --tasks bench,ppl,retrieval,spec -t 1 --pairs 1 \
    --bench "--tests 'pp16 tg4 tg4@96'" --ppl "--context 96 --windows 2 --steps 16" \
    --retrieval "--length 256 --needles 2 --questions 2 --mode multi_request" --spec "-n 12 --temperatures 0" -o .
[ -s report.html ] || { done_testing; exit; }

# Nothing is fetched: no address but that of the name space of SVG, no file.
grep -oE '(src|href)="[^#"][^"]*"|url\([^)]*\)|@import[^;]*|https?://[^" <]*' report.html | grep -v 'www.w3.org' >addresses || true
expect "the page loads nothing" test ! -s addresses

# ---- what the page says about itself, asked by a script behind its own -------------------------------------------------
cat >probe.html <<'SCRIPT'
<script>
(function () {
  var faults = [], checked = 0;
  function expect(good, what) { checked++; if (!good) faults.push(what); }
  function rows() { return Array.prototype.slice.call(document.querySelectorAll('table.all tbody tr')); }
  function apart() {
    document.querySelectorAll('svg.plot').forEach(function (svg) {
      var boxes = Array.prototype.slice.call(svg.querySelectorAll('text.name')).map(function (t) { return [t.textContent, t.getBoundingClientRect()]; });
      boxes.forEach(function (a, i) {
        if (a[1].width === 0) return;
        checked++;
        boxes.slice(i + 1).forEach(function (b) {
          var x = Math.min(a[1].right, b[1].right) - Math.max(a[1].left, b[1].left), y = Math.min(a[1].bottom, b[1].bottom) - Math.max(a[1].top, b[1].top);
          expect(!(x > 1 && y > 3), 'names cover each other: ' + a[0] + ', ' + b[0]); // line boxes are taller than letters
        });
      });
    });
  }
  function colour(text) {
    var n = (text.match(/[\d.]+/g) || []).map(Number);
    if (/^color\(srgb/.test(text)) n = n.map(function (v, i) { return i < 3 ? v * 255 : v; });
    return n;
  }
  function luminance(c) {
    var f = c.slice(0, 3).map(function (v) { v /= 255; return v <= 0.04045 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4); });
    return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2];
  }
  function behind(e) {
    for (; e; e = e.parentElement) {
      var c = colour(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0.99) return c;
    }
    return [255, 255, 255];
  }
  function contrast() {
    document.querySelectorAll('body *').forEach(function (e) {
      var own = Array.prototype.some.call(e.childNodes, function (n) { return n.nodeType === 3 && n.textContent.trim() !== ''; });
      if (!own || e.getClientRects().length === 0 || /^(SCRIPT|STYLE|TITLE)$/i.test(e.tagName)) return;
      var style = getComputedStyle(e), c = colour(e.namespaceURI.indexOf('svg') > 0 ? style.fill : style.color);
      var a = luminance(c), b = luminance(behind(e)), ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      expect(ratio >= 4.5, 'contrast ' + ratio.toFixed(2) + ' of <' + e.tagName + ' ' + (e.getAttribute('class') || '') + '> ' + e.textContent.trim().slice(0, 30));
    });
  }
  function wide() {
    var e = document.documentElement;
    expect(e.scrollWidth <= innerWidth, 'scrolls sideways: ' + e.scrollWidth + ' in ' + innerWidth);
  }
  function sorting() {
    document.querySelectorAll('table.all thead th').forEach(function (th, column) {
      var button = th.querySelector('button'), name = button.textContent;
      expect(button.getClientRects().length > 0, 'no heading to click on: ' + name);
      ['first', 'second'].forEach(function (click) {
        button.click();
        var order = th.getAttribute('aria-sort'), ahead = order === 'ascending' ? 1 : -1;
        expect((order === th.getAttribute('data-first')) === (click === 'first'), click + ' click sorts ' + order + ': ' + name);
        expect(document.querySelectorAll('th[aria-sort]').length === 1, 'more than one column says that it is sorted: ' + name);
        var keys = rows().map(function (r) { return r.cells[column].getAttribute('data-value'); });
        for (var i = 1; i < keys.length; i++) {
          var a = keys[i - 1], b = keys[i];
          var good = b === null || (a !== null && (column === 0 ? ahead * a.localeCompare(b) <= 0 : ahead * (Number(a) - Number(b)) <= 0));
          expect(good, click + ' click, ' + name + ': ' + a + ' in front of ' + b);
        }
      });
    });
    expect(rows().length === 7, 'rows are lost');
  }
  function links() {
    var link = document.querySelector('tbody th a');
    location.hash = link.getAttribute('href');
    window.dispatchEvent(new HashChangeEvent('hashchange'));
    expect(document.querySelector(link.getAttribute('href')).open, 'a link to a configuration does not open it');
  }
  window.addEventListener('load', function () {
    wide(); apart(); contrast(); sorting(); links(); wide();
    expect(document.querySelectorAll('b b, td script, summary b b').length === 0, 'text of users became elements');
    expect(document.querySelectorAll('figure').length >= 4, 'pictures are missing');
    parent.postMessage([innerWidth, matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light', checked, faults], '*');
  });
})();
</script>
SCRIPT
cat report.html probe.html >probed.html
cat >frames.html <<'PAGE'
<!doctype html><meta charset="utf-8"><title>frames</title><pre id="said"></pre>
<iframe src="probed.html" width="390" height="900"></iframe><iframe src="probed.html" width="1200" height="900"></iframe>
<script>
addEventListener('message', function (e) {
  var d = e.data, said = document.getElementById('said');
  said.textContent += 'page ' + d[0] + ' ' + d[1] + ' ' + d[2] + ' checks ' + d[3].length + ' faults\n' + d[3].map(function (f) { return 'fault ' + d[0] + ' ' + d[1] + ': ' + f + '\n'; }).join('');
});
</script>
PAGE
# The browser is as wide as a page needs; a page narrower than its smallest window stands in a frame.
chromium() { "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$tap_tmp/profile" "$@" 2>"$tap_tmp/browser.log"; }
for scheme in light dark; do
    dark=; [ $scheme = light ] || dark=--blink-settings=preferredColorScheme=0
    chromium $dark --virtual-time-budget=8000 --window-size=1700,1000 --dump-dom "file://$tap_tmp/frames.html" >dom.$scheme
    for width in 390 1200; do
        grep -aE "^(.*>)?(page|fault) $width $scheme" dom.$scheme | sed 's/.*>page/page/' >said
        [ -s said ] || { cp browser.log said; head -c 400 dom.$scheme >>said; }
        if grep -qE "^page $width $scheme [1-9][0-9]{2,} checks 0 faults" said; then
            ok "the page at $width px, $scheme: $(cut -d' ' -f4 said | head -n 1) checks"
        else
            not_ok "the page at $width px, $scheme" said
        fi
    done
done

# ---- pictures for people ------------------------------------------------------------------------------------------------
mkdir -p "$shots"
printf '<!doctype html><style>body{margin:0;display:flex}iframe{border:0}</style><iframe src="report.html" width="390" height="7400"></iframe><iframe src="report.html" width="1200" height="7400"></iframe>' >shot.html
for scheme in light dark; do
    dark=; [ $scheme = light ] || dark=--blink-settings=preferredColorScheme=0
    chromium $dark --window-size=1590,7400 --screenshot="$shots/report-$scheme.png" "file://$tap_tmp/shot.html" >shot.log
    expect "a screenshot at 390 and 1200 px, $scheme" test "$(wc -c <"$shots/report-$scheme.png")" -gt 100000
done
done_testing
