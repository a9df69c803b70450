# A TLS server and a client on loopback, with a certificate made before.

check 'make a certificate' $enter openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out certificate.pem \
    -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost
listening() { grep -q ':1151 .* 0A ' /proc/net/tcp /proc/net/tcp6; }

serve() {
    $enter openssl s_server -accept 4433 -cert certificate.pem -key key.pem "$@" >server.log 2>&1 &
    server=$!
    until_true 60 listening || { cat server.log; echo '@fail the server listens'; }
}
answered() { grep -q '^olleh$' client.log; }
# The client leaves at the end of its input, even if the answer is still on its way.
client() {
    : >client.log
    { echo hello; until_true 30 answered; } | $enter openssl s_client -connect localhost:4433 -servername localhost \
        -CAfile certificate.pem -verify_return_error "$@" >client.log 2>&1
}
for version in tls1_2 tls1_3; do
    serve -rev -naccept 1
    client -$version
    echo "client's status $?"
    check "$version: the certificate is verified" grep -q 'Verify return code: 0 (ok)' client.log
    check "$version: the server answers" answered
    wait $server
    [ $? -le 1 ] || echo "@fail $version: the server ends by itself"
done
serve -www
for round in 1 2 3; do
    printf 'GET / HTTP/1.0\r\n\r\n' >request
    check "request $round" sh -c "{ cat request; sleep 2; } | $enter openssl s_client -quiet -connect localhost:4433 \
        -CAfile certificate.pem -verify_return_error 2>/dev/null | grep -q 'HTTP/1.0 200 ok'"
done
kill $server
wait $server
same 'the server dies by SIGTERM' 143 echo $?
