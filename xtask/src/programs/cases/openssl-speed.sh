# Algorithms against the clock: SIGALRM ends each.

for algorithm in sha256 aes-128-gcm chacha20-poly1305; do
    check "$algorithm" $enter openssl speed -seconds 1 -bytes 1024 -evp $algorithm
done
for algorithm in rsa2048 ecdhx25519; do
    check "$algorithm" $enter openssl speed -seconds 1 $algorithm
done
check 'two processes' $enter openssl speed -seconds 1 -bytes 1024 -multi 2 -evp sha256
same 'a known digest' 'SHA2-256(word)= 2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824' \
    $enter sh -c 'printf hello >word && openssl dgst -sha256 word'
