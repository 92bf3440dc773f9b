package sqlstore

import (
	"bytes"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// asked is the answer, a line a row.
func asked(ctx context.Context, q Question) (names, lines []string, err error) {
	err = Ask(ctx, q, func(c []string) error { names = c; return nil }, func(row []driver.Value) error {
		var cells []string
		for _, v := range row {
			if b, ok := v.([]byte); ok {
				v = string(b)
			}
			cells = append(cells, fmt.Sprint(v))
		}
		lines = append(lines, strings.Join(cells, "|"))
		return nil
	})
	return names, lines, err
}

func TestAskALiveStore(t *testing.T) {
	s := newStore(t, Config{})
	put(s, "a", "1")
	put(s, "b", "2")
	flush(t, s)
	live := Question{Path: s.cfg.Path}
	for sql, want := range map[string]string{
		"SELECT revision, key, value FROM revisions ORDER BY id":                                   "2|a|1 3|b|2",
		"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 3) SELECT i FROM n;  ": "1 2 3",
		"SELECT ';' AS \"a;b\" /* ; */ -- ; DROP TABLE revisions\n; -- that is all; really":        ";",
		"SELECT name FROM pragma_table_info('meta')":                                               "name value",
		"PRAGMA user_version":                   "1",
		"PRAGMA integrity_check":                "ok",
		"VALUES (1, NULL, 2.5)":                 "1|<nil>|2.5",
		"EXPLAIN QUERY PLAN SELECT * FROM meta": "",
		"SELECT count(*) FROM (SELECT key FROM revisions EXCEPT SELECT key FROM revisions)":               "0",
		"SELECT json_extract(CAST('{\"a\":5}' AS TEXT), '$.a'), hex(key) FROM revisions WHERE id < 3<<22": "5|61",
	} {
		live.SQL = sql
		_, lines, err := asked(t.Context(), live)
		if got := strings.Join(lines, " "); err != nil || want != "" && got != want {
			t.Errorf("%s: got %q, %v, want %q", sql, got, err, want)
		}
	}
}

// TestAskOnlyReads: whatever is tried, nothing changes: neither the file, nor what
// lies beside it.
func TestAskOnlyReads(t *testing.T) {
	s := newStore(t, Config{})
	put(s, "a", "1")
	image := filepath.Join(t.TempDir(), "image.db")
	writeImage(t, s, image)
	flush(t, s)
	before, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other.db")
	for _, sql := range []string{
		"INSERT INTO meta VALUES ('x', 1)",
		"UPDATE revisions SET value = x'00'",
		"DELETE FROM revisions",
		"WITH n AS (SELECT 1) DELETE FROM revisions",
		"DELETE FROM revisions RETURNING key",
		"REPLACE INTO meta VALUES ('floor', 9)",
		"DROP TABLE revisions",
		"ALTER TABLE meta ADD COLUMN x",
		"CREATE TABLE t(a)",
		"CREATE TEMP TABLE t(a)",
		"CREATE TEMP VIEW t AS SELECT 1",
		"CREATE TEMP TRIGGER t AFTER INSERT ON meta BEGIN SELECT 1; END",
		"CREATE VIRTUAL TABLE t USING fts5(a)",
		"CREATE INDEX i ON revisions(key)",
		"ATTACH '" + other + "' AS o",
		"DETACH main",
		"VACUUM",
		"VACUUM INTO '" + other + "'",
		"REINDEX",
		"ANALYZE",
		"BEGIN IMMEDIATE",
		"SAVEPOINT s",
		"PRAGMA query_only = 0",
		"PRAGMA query_only(0)",
		"PRAGMA writable_schema = 1",
		"PRAGMA main.writable_schema = RESET",
		"PRAGMA journal_mode = DELETE",
		"PRAGMA wal_checkpoint(TRUNCATE)",
		"PRAGMA wal_checkpoint",
		"PRAGMA incremental_vacuum",
		"PRAGMA optimize",
		"PRAGMA user_version = 9",
		"PRAGMA temp_store_directory = '/'",
		"PRAGMA locking_mode = EXCLUSIVE",
		"SELECT load_extension('/tmp/x.so')",
		"UPDATE sqlite_schema SET sql = ''",
		"UPDATE sqlite_dbpage SET data = x'00' WHERE pgno = 1",
		"INSERT INTO sqlite_dbpage VALUES (1, x'00')",
		"SELECT * FROM pragma_wal_checkpoint",
		"SELECT * FROM pragma_journal_mode('DELETE')",
		"SELECT 1; DELETE FROM revisions",
		"SELECT 1;;ATTACH '" + other + "' AS o",
		"SELECT '1;' ; /* */ DROP TABLE meta",
		"-- \n;DROP TABLE meta",
		"",
		" ;",
		"SELECT 1\x00; DROP TABLE meta",
		"nonsense",
	} {
		for _, q := range []Question{{Path: s.cfg.Path, SQL: sql}, {Path: image, Still: true, SQL: sql}} {
			if _, lines, err := asked(t.Context(), q); err == nil {
				t.Errorf("%s at %s: answered %q, want an error", sql, q.Path, lines)
			}
		}
	}
	after, err := os.ReadFile(image)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the image is %d bytes, %v, and was %d: it has changed", len(after), err, len(before))
	}
	if files, _ := filepath.Glob(filepath.Dir(image) + "/*"); len(files) != 1 {
		t.Errorf("beside the image: %v", files)
	}
	if _, err := os.Stat(other); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("another file: got %v, want that there is none", err)
	}
	if v, ok := get(t, s, "a", s.Rev()); !ok || v != "1" {
		t.Errorf("a = %q, %v; want 1", v, ok)
	}
	put(s, "b", "2") // and the store can be written
	flush(t, s)
	if err := s.Err(); err != nil {
		t.Error(err)
	}
}

func TestAskSaysWhatIsRefused(t *testing.T) {
	s := newStore(t, Config{})
	for sql, want := range map[string]string{
		"DELETE FROM meta":      "to DELETE",
		"ATTACH 'x' AS y":       "to ATTACH",
		"PRAGMA query_only = 0": "to set a PRAGMA",
		"DROP TABLE meta":       "",
	} {
		_, _, err := asked(t.Context(), Question{Path: s.cfg.Path, SQL: sql})
		if !errors.Is(err, ErrReadOnly) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %v, %s", sql, err, ErrReadOnly, want)
		}
	}
	file := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(file, []byte("no database at all"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := asked(t.Context(), Question{Path: file, Still: true, SQL: "SELECT 1"}); err == nil || !strings.Contains(err.Error(), "no SQLite database") {
		t.Errorf("a text: got %v", err)
	}
}

// TestAskEnds: a question without an end ends with its time, and holds nothing back
// after that.
func TestAskEnds(t *testing.T) {
	s := newStore(t, Config{})
	put(s, "a", "1")
	flush(t, s)
	for _, sql := range []string{
		"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT count(*) FROM n",
		"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT i FROM n",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, _, err := asked(ctx, Question{Path: s.cfg.Path, SQL: sql}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: got %v, want %v", sql, err, context.DeadlineExceeded)
		}
		cancel()
	}
	onKeeper(t, s, func() {
		err := s.keeper.conn.query("PRAGMA wal_checkpoint(TRUNCATE)", 3, func(row []driver.Value) error {
			if row[0] != int64(0) {
				t.Errorf("the WAL cannot be emptied: busy %v", row[0])
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// A question cannot have SQLite make up values of any size.
func TestAskBoundsWhatIsMadeUp(t *testing.T) {
	s := newStore(t, Config{})
	put(s, "a", "1")
	flush(t, s)
	for _, sql := range []string{
		"SELECT length(hex(zeroblob(60000000)))",
		"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 1000) SELECT length(group_concat(hex(zeroblob(50000)))) FROM n",
	} {
		if _, lines, err := asked(t.Context(), Question{Path: s.cfg.Path, SQL: sql}); err == nil || !strings.Contains(err.Error(), "too big") {
			t.Errorf("%s: got %q, %v, want that it is too big", sql, lines, err)
		}
	}
}
