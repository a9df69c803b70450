# What compartments cost a web server: the example `web`, with its parsers and its key in compartments and without, under ab; and whether openssl
# is content with it. For `cargo xtask peers web`, in the machine.

cd /tmp || exit
ab -V >/dev/null || exit
requests=${REQUESTS:-400}
request='GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'

# Starts the server, whose address it tells.
start() {
    web 127.0.0.1:8443 "$@" 2>/tmp/web.log &
    server=$!
    until grep -q '^listening' /tmp/web.log; do kill -0 $server || exit; sleep 0.2; done
}
stop() {
    kill $server
    wait $server 2>/dev/null || :
}
# Milliseconds of a request, as ab tells them. Its requests must all have been answered.
load() {
    ab "$@" >/tmp/ab.log 2>&1 || { cat /tmp/ab.log; exit 1; }
    grep -q '^Failed requests: *0$' /tmp/ab.log || { cat /tmp/ab.log; exit 1; }
    sed -n 's/^Time per request: *\([0-9.]*\) .ms. (mean, across.*/\1/p' /tmp/ab.log
}

for mode in compartments trusting; do
    [ $mode = trusting ] && argument=trusting || argument=
    start - $argument
    load -n 20 http://127.0.0.1:8443/ >/dev/null
    echo "$mode, HTTP, milliseconds a request: keep-alive $(load -k -c 4 -n $requests http://127.0.0.1:8443/)" \
        "a connection each $(load -c 4 -n $requests http://127.0.0.1:8443/)"
    # The hole, aimed at the key.
    key=$(sed -n 's/.*the key is at 0x//p' /tmp/web.log)
    printf "GET / HTTP/1.1\r\nX-Peek: $key\r\nConnection: close\r\n\r\n" | nc 127.0.0.1 8443 >/tmp/attack
    echo "$mode: an attack on the key gets: $(sed -n '1p;s/^there is .*/eight of its bytes/p' /tmp/attack | tr -d '\r' | tr '\n' ' ')"
    stop
    # On Bochs signatures of P-256 are wrong for ring that are right elsewhere, also without Dune.
    [ "$DUNE_MACHINE" = vtx ] && continue
    start /tmp/certificate.pem $argument
    echo "$mode, TLS, milliseconds a request: keep-alive $(load -k -c 4 -n $requests https://127.0.0.1:8443/)" \
        "a connection each $(load -c 4 -n $((requests / 8)) https://127.0.0.1:8443/)"
    for version in tls1_2 tls1_3; do
        printf "$request" | openssl s_client -quiet -verify_return_error -connect 127.0.0.1:8443 -CAfile /tmp/certificate.pem \
            -$version >/tmp/answer 2>/tmp/client.log
        grep -q '^hello$' /tmp/answer || { cat /tmp/answer /tmp/client.log /tmp/web.log; exit 1; }
        echo "$mode: openssl s_client -$version has the answer, and the certificate is good"
    done
    stop
done
