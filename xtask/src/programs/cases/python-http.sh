# Python's own web server, as README.md starts it: what is in its folder is answered, what a link leads to outside is not.

mkdir site
cd site || exit 96
echo hello >index.html
echo secret >/root/secret
ln -s /root/secret stolen.txt

$enter python3 -m http.server --bind 127.0.0.1 8000 >../log/output 2>&1 &
server=$!
get() { timeout 20 busybox wget -q -O - "http://127.0.0.1:8000/$1" 2>/dev/null; }
answers() { [ "$(get index.html)" = hello ]; }
until_true 60 answers
check 'it answers' answers
for number in $(seq 20); do echo "$number" >"$number.txt"; done
same 'twenty files' 210 sh -c 'for n in $(seq 20); do busybox wget -q -O - "http://127.0.0.1:8000/$n.txt"; done | { s=0; while read -r n; do s=$((s + n)); done; echo $s; }'
same 'a listing' 20 sh -c 'mkdir -p all && mv [0-9]*.txt all && busybox wget -q -O - http://127.0.0.1:8000/all/ | grep -c "<li>.*txt"'
if [ -n "$policy" ]; then
    same 'a link that leads out' nothing echo "$(get stolen.txt || echo nothing)"
else
    same 'a link that leads out' secret get stolen.txt
fi
kill $server
until_true 30 sh -c "! kill -0 $server" || kill -KILL $server
wait $server
same 'it ends as it is told' 143 echo $?
same 'it tells of its requests' yes echo "$(grep -q '"GET /index.html HTTP/1.[01]" 200' ../log/output && echo yes)"
denials <../log/output
tail -n 20 ../log/output
rm /root/secret
