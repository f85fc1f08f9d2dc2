#!/bin/sh
# Make src/report/font/plot.otf: the glyphs of Inter that charts use, for pictures drawn without fonts on the machine.
#
#     pip install fonttools==4.68.0
#     scripts/plot_font.sh Inter-Regular.otf      (Debian: fonts-inter 4.0~beta7, usr/share/fonts/opentype/inter/)
#
# Inter is under the SIL Open Font License 1.1 (src/report/font/LICENSE), without reserved names.
set -eu
pyftsubset "$1" --output-file="$(dirname "$0")/../src/report/font/plot.otf" \
    --unicodes="U+0020-007E,U+00A0-00FF,U+0391-03A9,U+03B1-03C9,U+2009,U+2010-2015,U+2018-201D,U+2026,U+202F,U+2032,U+2080-2089,U+2190-2193,U+2212,U+221E,U+2248,U+2260,U+2264,U+2265,U+FFFD" \
    --layout-features=kern --no-hinting --desubroutinize --name-IDs=0,1,2,3,4,5,6,13,14 --notdef-outline --drop-tables+=DSIG
