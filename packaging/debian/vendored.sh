#!/bin/sh
# vendored.sh TREE: what was vendored, in which version, under which licence, with which sum.
set -eu
echo "Python packages in /usr/lib/carbonseal, with the sums of the files they were made from."
echo "Those without a compiled part, and all that were built here, have one sum; others one for each"
echo "architecture.  Licences in full: *.dist-info of each, and the file copyright."
echo
for about in "$1"/*.dist-info/METADATA; do
    name=$(sed -n 's/^Name: //p;/^$/q' "$about" | head -n 1 | tr 'A-Z_' 'a-z-')
    version=$(sed -n 's/^Version: //p;/^$/q' "$about" | head -n 1)
    [ "$name" != carbonseal ] || continue
    echo "$name $version"
    sed -n "/^$name==$version /,/[^\\\\]\$/s/.*--hash=\([^ ]*\).*/    \1/p" debian/python.lock
done
