# The same script of pipes by two shells, each in Dune mode with all that it starts.

cat >/tmp/script <<'END'
seq 1 2000 | grep 7 | sed 's/^7/seven/' | sort -rn | head -n 3
echo "$(seq 1 100 | mawk '{ sum += $1 } END { print sum }') $(printf a; printf b | cat)"
seq 1 500 | while read -r line; do echo "$line"; done | tail -n 1
(cd /; pwd; exit 3); echo "subshell $?"
false | true; echo "pipe $?"
cat <<HERE | tr a-z A-Z
here document
HERE
trap 'echo trapped' USR1; kill -USR1 $$
for number in 1 2 3 4 5; do (sleep 0.2; echo "job $number") & done | sort; wait; echo waited
sleep 100 & child=$!; kill $child; wait $child; echo "killed $?"
sh -c 'kill -SEGV $$'; echo "died $?"
yes | head -n 20000 | wc -l
head -c 300000 /dev/zero | cat | dd bs=1000 2>/dev/null | wc -c
mkfifo /tmp/fifo.$$; seq 1 1000 >/tmp/fifo.$$ & wc -l </tmp/fifo.$$; wait
echo read >/tmp/file.$$; exec 3</tmp/file.$$; read -r word <&3; echo "$word"
trap 'echo bye' EXIT
END
expected='1997
1987
1979
5050 ab
500
/
subshell 3
pipe 0
HERE DOCUMENT
trapped
job 1
job 2
job 3
job 4
job 5
waited
killed 143
died 139
20000
300000
1000
read
bye'

for shell in 'busybox sh' dash bash; do
    got=$($limited $shell /tmp/script 2>/tmp/errors)
    same "pipes by $shell" "$expected" printf '%s\n' "$got"
    grep -v -i -E 'terminated|segmentation' /tmp/errors
done
