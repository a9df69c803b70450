# A script of the kind that people write in Python: threads, children, a database, files of its own, compression, a process pool.

cat >script.py <<'END'
import concurrent.futures, gzip, hashlib, json, os, pathlib, re, shutil, sqlite3, subprocess, sys, tempfile, threading

with concurrent.futures.ThreadPoolExecutor(4) as pool:
    print('threads', sum(pool.map(lambda n: n * n, range(1000))))
lock, total = threading.Lock(), 0
def add():
    global total
    for _ in range(1000):
        with lock:
            total += 1
workers = [threading.Thread(target=add) for _ in range(5)]
[worker.start() for worker in workers]
[worker.join() for worker in workers]
print('lock', total)

done = subprocess.run(['sort', '-rn'], input='1\n3\n2\n', capture_output=True, text=True, check=True)
print('sort', done.stdout.split())
print('shell', subprocess.check_output('seq 100 | grep -c 7', shell=True, text=True).strip(), subprocess.call(['sh', '-c', 'exit 5']))
try:
    subprocess.run(['sleep', '60'], timeout=0.5)
except subprocess.TimeoutExpired:
    print('timeout')
try:
    subprocess.run(['no-such-program'])
except FileNotFoundError as error:
    print('missing', error.errno)

work = pathlib.Path(tempfile.mkdtemp(dir='.'))
with sqlite3.connect(work / 'db') as database:
    database.execute('create table item (id integer primary key, name text)')
    database.executemany('insert into item (name) values (?)', [(f'item {n}',) for n in range(1000)])
print('sqlite', sqlite3.connect(work / 'db').execute('select count(*), max(name) from item').fetchone())
for n in range(20):
    (work / f'{n}.txt').write_text(f'{n}\n' * n)
print('files', len(list(work.glob('*.txt'))), sum(p.stat().st_size for p in work.glob('1*.txt')))
with gzip.open(work / 'z.gz', 'wt') as packed:
    json.dump({'list': list(range(100)), 'text': 'ä'}, packed)
print('json', len(json.load(gzip.open(work / 'z.gz', 'rt'))['list']))
os.rename(work / '1.txt', work / 'one')
os.symlink('one', work / 'link')
print('links', (work / 'link').resolve().name, os.readlink(work / 'link'))
print('hash', hashlib.sha256(b'abc').hexdigest()[:8], re.sub(r'(\w+) (\w+)', r'\2 \1', 'hello world'))
shutil.rmtree(work)
child = os.fork()
if child == 0:
    os._exit(7)
print('fork', os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), work.exists())
sys.exit(3)
END
run() { "$@"; echo "status $?"; }
same 'a script' "threads 332833500
lock 5000
sort ['3', '2', '1']
shell 19 5
timeout
missing 2
sqlite (1000, 'item 999')
files 20 437
json 100
links one one
hash ba7816bf world hello
fork 7 False
status 3" run $limited python3 script.py

cat >pool.py <<'END'
import multiprocessing
def square(n): return n * n
if __name__ == '__main__':
    with multiprocessing.Pool(2) as pool:
        print(sum(pool.map(square, range(200))))
END
same 'a pool of processes' 2646700 $limited python3 pool.py
mkdir package
echo 'def word(): return "imported"' >package/module.py
same 'a module of its own' imported $limited python3 -c 'from package.module import word; print(word())'
check 'its compiled form is kept' sh -c 'ls package/__pycache__/module.*.pyc'
same 'a traceback' 'ValueError: wrong' sh -c "$limited python3 -c 'raise ValueError(\"wrong\")' 2>&1 | tail -n 1"
