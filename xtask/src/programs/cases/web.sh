# A web server, `$2`, under ab: with and without keep-alive, 1 and 100 clients; files whose bytes are known; a clean stop.
# With a policy in `$policy` (see inside.sh) it also has to keep what is outside from everybody who asks.

server=$2
# Who confines a server does not run it as root.
as=
if [ -n "$policy" ]; then
    as='setpriv --reuid=65534 --regid=65534 --clear-groups'
    chown 65534:65534 log
    chmod 666 /dev/kvm
    trap 'chmod 600 /dev/kvm' EXIT
fi
# What is outside is kept from nobody else.
chmod 755 /root
length=3893
mkdir www
seq 1 1000 >www/numbers.txt
seq 1 200000 >www/large.txt
echo hello >www/index.html
echo secret >/root/secret
ln -s /root/secret www/outside.txt

case $server in
    lighttpd)
        cat >lighttpd.conf <<'END'
server.bind = "127.0.0.1"
server.port = 8000
server.document-root = "/tmp/www"
server.errorlog = "/tmp/log/error.log"
server.modules = ("mod_accesslog")
accesslog.filename = "/tmp/log/access.log"
index-file.names = ("index.html")
mimetype.assign = (".html" => "text/html", ".txt" => "text/plain")
server.max-keep-alive-requests = 100000
server.max-fds = 1024
END
        command='lighttpd -D -f lighttpd.conf'
        reload=USR1
        stop=INT
        ;;
    nginx)
        # Workers of root's go to another user.
        [ -n "$policy" ] && user='' || user='user nobody nogroup;'
        cat >nginx.conf <<END
daemon off;
$user
worker_processes 2;
pid /tmp/log/nginx.pid;
error_log /tmp/log/error.log;
events { worker_connections 512; }
http {
    access_log /tmp/log/access.log;
    client_body_temp_path /tmp/log/body;
    proxy_temp_path /tmp/log/proxy;
    fastcgi_temp_path /tmp/log/fastcgi;
    uwsgi_temp_path /tmp/log/uwsgi;
    scgi_temp_path /tmp/log/scgi;
    types { text/html html; text/plain txt; }
    sendfile on;
    keepalive_requests 100000;
    server { listen 127.0.0.1:8000; root /tmp/www; }
}
END
        command='nginx -e /tmp/log/error.log -p /tmp -c /tmp/nginx.conf'
        reload=HUP
        stop=QUIT
        ;;
esac

# A policy that lets a server listen lets it connect to nobody.
[ -n "$policy" ] && clients_way='timeout --signal KILL 60' || clients_way=$limited

get() { timeout 20 busybox wget -q -O - "http://127.0.0.1:8000/$1"; }
ask() { printf '%s HTTP/1.0\r\n%s\r\n' "$1" "$2" | busybox nc -w 20 127.0.0.1 8000 | tr -d '\r'; }
answers() { [ "$(get)" = hello ]; }
status() { ask "$@" | head -n 1 | cut -d ' ' -f 2; }
told() { sed -n "s/^$1: *\([0-9]*\).*/\1/p" load.log; }
# load NAME CLIENTS REQUESTS OPTIONS...: every request is answered, with all bytes, and over connections that are kept if asked so.
load() {
    load_name=$1 clients=$2 requests=$3
    shift 3
    kept=
    [ "$*" = -k ] && kept=$requests
    $clients_way ab -q -s 50 -c "$clients" -n "$requests" "$@" http://127.0.0.1:8000/numbers.txt >load.log 2>&1
    same "$load_name" "0 $requests 0 0 $length $((requests * length)) $kept" echo $? "$(told 'Complete requests')" \
        "$(told 'Failed requests')" "$(grep -c Non-2xx load.log)" "$(told 'Document Length')" \
        "$(told 'HTML transferred')" "$(told 'Keep-Alive requests')"
}

$as $enter $command >log/output 2>&1 &
pid=$!
until_true 60 answers
check 'the server answers' answers
load '1 client' 1 200
load '1 client, keep-alive' 1 400 -k
load '100 clients' 100 500
load '100 clients, keep-alive' 100 1000 -k
check 'a small file is right' sh -c 'busybox wget -q -O - http://127.0.0.1:8000/numbers.txt | busybox cmp - www/numbers.txt'
check 'a large file is right' sh -c 'busybox wget -q -O - http://127.0.0.1:8000/large.txt | busybox cmp - www/large.txt'
same 'a part of a file' '10
11' sh -c "printf 'GET /numbers.txt HTTP/1.1\r\nHost: x\r\nConnection: close\r\nRange: bytes=18-22\r\n\r\n' |
    busybox nc -w 20 127.0.0.1 8000 | tr -d '\r' | sed '1,/^\$/d'"
same 'what is not there' 404 status 'GET /none'
same 'what is no request' 400 status 'GET'
same 'the head alone' "$length 0" echo "$(ask 'HEAD /numbers.txt' | sed -n 's/^Content-Length: //p')" "$(ask 'HEAD /numbers.txt' | sed '1,/^$/d' | wc -c)"
# A link of the server's leads out: natively to what is there.
if [ -n "$policy" ]; then
    same 'a link that leads out' '0 refused' echo "$(get outside.txt | grep -c secret)" \
        "$(case $(status 'GET /outside.txt') in 403 | 404) echo refused ;; esac)"
else
    same 'a link that leads out' secret get outside.txt
fi
kill -$reload $pid
sleep 1
until_true 60 answers
check 'it answers when it has read its configuration again' answers
load 'also to many' 10 200
kill -$stop $pid
until_true 60 sh -c "! kill -0 $pid" || { echo 'it does not end'; kill -KILL $pid; }
wait $pid
same 'the server ends as it is told' 0 echo $?
check 'nobody listens any more' sh -c '! busybox nc -w 5 127.0.0.1 8000 </dev/null'
same 'each request is in the log' 2300 grep -c 'GET /numbers.txt HTTP/1.0" 200' log/access.log
same 'it complains of nothing' 0 echo "$(grep -v -e 'No such file' -e 'denied by the policy' -e outside.txt log/error.log log/output | grep -c -i -E 'emerg|alert|crit|\[error|dune:')"
denials <log/output
tail -n 20 log/error.log log/output
rm /root/secret
