# One module of Python's own tests. xtask reads the lines of its verbose output.

module=$2
$enter python3 -m test -v "$module"
exit $?
