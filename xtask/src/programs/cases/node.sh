# Node.js, whose engine scatters its heap over all addresses, compiles code, and has WebAssembly catch SIGSEGV.

cat >heap.js <<'JS'
const all = [];
for (let i = 0; i < 1000000; i++) all.push({ number: i, name: 'item ' + i });
let sum = 0;
for (const one of all) sum += one.number + one.name.length;
console.log(sum);
JS
same heap '500010388890' $limited node heap.js

cat >workers.js <<'JS'
const { Worker, isMainThread, workerData } = require('worker_threads');
if (isMainThread) {
  const counter = new Int32Array(new SharedArrayBuffer(4));
  let left = 4;
  for (let i = 0; i < 4; i++)
    new Worker(__filename, { workerData: counter }).on('exit', () => --left || console.log(counter[0]));
} else {
  for (let i = 0; i < 100000; i++) Atomics.add(workerData, 0, 1);
}
JS
same workers '400000' $limited node workers.js

cat >children.js <<'JS'
const { execFileSync, fork } = require('child_process');
if (process.send) {
  process.on('message', number => { process.send(number * 2); process.disconnect(); });
} else {
  console.log(execFileSync('sh', ['-c', 'echo $((6 * 7)) | cat']).toString().trim());
  fork(__filename).on('message', number => console.log(number)).send(21);
}
JS
same children '42
42' $limited node children.js

cat >server.js <<'JS'
const http = require('http');
const server = http.createServer((request, response) => response.end('you asked for ' + request.url));
server.listen(0, '127.0.0.1', () => {
  let left = 100, right = 0;
  for (let i = 0; i < 100; i++)
    http.get({ host: '127.0.0.1', port: server.address().port, path: '/' + i, agent: false }, response => {
      let body = '';
      response.on('data', part => body += part).on('end', () => {
        right += body === 'you asked for /' + i;
        --left || server.close(() => console.log(right));
      });
    });
});
JS
same server '100' $limited node server.js

# (memory 1) and two functions: one adds, one loads from an address.
cat >wasm.js <<'JS'
const bytes = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 12, 2, 96, 2, 127, 127, 1, 127, 96, 1, 127, 1, 127, 3, 3, 2, 0, 1,
  5, 3, 1, 0, 1, 7, 14, 2, 3, 97, 100, 100, 0, 0, 4, 108, 111, 97, 100, 0, 1, 10, 17, 2, 7, 0, 32, 0, 32, 1, 106, 11,
  7, 0, 32, 0, 40, 2, 0, 11]);
const { add, load } = new WebAssembly.Instance(new WebAssembly.Module(bytes)).exports;
let sum = 0;
for (let i = 0; i < 100000; i++) sum = add(sum, i);
console.log(sum, load(0));
let caught = 0;
for (let i = 0; i < 1000; i++)
  try { load(65536 + i * 4096); } catch (error) { caught += error instanceof WebAssembly.RuntimeError; }
console.log(caught);
JS
same WebAssembly '704982704 0
1000' $limited node wasm.js

cat >others.js <<'JS'
const { createHash } = require('crypto');
const { gzipSync, gunzipSync } = require('zlib');
console.log(createHash('sha256').update('abc').digest('hex').slice(0, 16));
const text = 'to and fro '.repeat(100000);
console.log(gunzipSync(gzipSync(text)).toString() === text);
process.on('SIGUSR2', () => { console.log('signal'); clearInterval(waiting); });
const waiting = setInterval(() => 0, 1000);
setTimeout(() => process.kill(process.pid, 'SIGUSR2'), 50);
JS
same 'crypto, zlib, a signal' 'ba7816bf8f01cfea
true
signal' $limited node others.js

same 'a file of its own making' '100000' $limited node -e \
    'const fs = require("fs"); fs.writeFileSync("f", "x".repeat(1e5)); console.log(fs.readFileSync("f").length)'
$limited node -e 'process.exit(7)'
same status 7 echo $?
