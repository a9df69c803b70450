# A database of 100,000 rows: built, indexed, queried, changed, checked.

cat >build.sql <<'END'
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price INTEGER);
BEGIN;
WITH RECURSIVE counter(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counter WHERE n < 100000)
INSERT INTO item SELECT n, 'item ' || n, n * 7919 % 1000 FROM counter;
COMMIT;
CREATE INDEX by_price ON item(price);
END
check build $limited sqlite3 items.db '.read build.sql'
same 'count and sum' '100000|49950000' $limited sqlite3 items.db 'SELECT count(*), sum(price) FROM item'
same 'by the index' '100|item 10077' $limited sqlite3 items.db \
    "SELECT count(*), min(name) FROM item WHERE price = 77 * 7919 % 1000 AND name <= 'item 99999'"
same join '100000' $limited sqlite3 items.db \
    'SELECT count(*) FROM item a JOIN item b ON a.id = b.id AND a.price = b.price'
same 'update and rollback' '49950000' $limited sqlite3 items.db \
    'BEGIN; UPDATE item SET price = 0 WHERE id % 2; ROLLBACK; SELECT sum(price) FROM item'
same 'write-ahead log' 'wal
50000' $limited sqlite3 items.db \
    'PRAGMA journal_mode = wal; DELETE FROM item WHERE id > 50000; SELECT count(*) FROM item'
same vacuum 'ok' $limited sqlite3 items.db 'VACUUM; PRAGMA integrity_check'
# Natively, whatever wrote it.
same 'the file is sound' 'ok' sqlite3 items.db 'PRAGMA integrity_check'
