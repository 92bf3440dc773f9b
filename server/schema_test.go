package server

import (
	"database/sql"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	_ "modernc.org/sqlite" // the driver of database/sql
)

const schemaDoc = "../docs/schema.md"

// writtenDatabase is what a member leaves in which was done what docs/schema.md says,
// opened for reading.
func writtenDatabase(t *testing.T) *sql.DB {
	t.Helper()
	cfg := newConfig(t)
	cfg.Name, cfg.Version = "board1", "v1"
	m := start(t, cfg)
	lease, auth := pb.NewLeaseClient(m.conn), pb.NewAuthClient(m.conn)
	do := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	m.put("config/region", "eu")
	m.put("config/region", "us")
	m.put("app/1", "a")
	do(m.kv.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte("app/1")}))
	do(lease.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{ID: 123, TTL: 600}))
	do(m.kv.Put(t.Context(), &pb.PutRequest{Key: []byte("lock/a"), Value: []byte("me"), Lease: 123}))
	m.put("config/region", "apac")
	do(m.kv.Compact(t.Context(), &pb.CompactionRequest{Revision: 3, Physical: true}))
	do(auth.RoleAdd(t.Context(), &pb.AuthRoleAddRequest{Name: "app"}))
	do(auth.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: "alice", Password: "wonder"}))
	do(auth.UserGrantRole(t.Context(), &pb.AuthUserGrantRoleRequest{User: "alice", Role: "app"}))
	r, err := http.NewRequest(http.MethodPut, m.cfg.ListenClientURLs[0]+"/v2/keys/a?value=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	do(resp, err)
	_ = resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	m.stop()

	db, err := sql.Open("sqlite", "file:"+filepath.Join(cfg.DataDir, "limpet.db")+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// answer is what a query answers, as the sqlite3 shell prints it.
func answer(t *testing.T, db *sql.DB, query string) []string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer func() { _ = rows.Close() }()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for rows.Next() {
		values, into := make([]sql.NullString, len(columns)), make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		var texts []string
		for _, v := range values {
			texts = append(texts, v.String)
		}
		out = append(out, strings.Join(texts, "|"))
	}
	if err := rows.Err(); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return out
}

// schemaRows are the names in the first column of the tables of a section, by the
// heading of that column.
func schemaRows(t *testing.T, section string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(schemaDoc)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "\n## "+section+"\n")
	if !found {
		t.Fatalf("%s has no section %s", schemaDoc, section)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	rows, heading := map[string][]string{}, ""
	for line := range strings.Lines(rest) {
		cells := strings.Split(line, "|")
		switch {
		case len(cells) < 3:
			heading = ""
		case heading == "":
			heading = strings.TrimSpace(cells[1])
		case strings.Contains(cells[1], "`"):
			rows[heading] = append(rows[heading], strings.Trim(cells[1], " `"))
		}
	}
	return rows
}

func wantSame(t *testing.T, what string, got, want []string) {
	t.Helper()
	got, want = slices.Clone(got), slices.Clone(want)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) || len(want) == 0 {
		t.Errorf("%s: %s names %v, and there are %v", what, schemaDoc, got, want)
	}
}

// declared are the names that constants of a kind have in the code.
func declared(t *testing.T, pattern string, files ...string) []string {
	t.Helper()
	var out []string
	for _, glob := range files {
		found, err := filepath.Glob(glob)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			code, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(code), -1) {
				out = append(out, m[1])
			}
		}
	}
	return out
}

// Every table and column is in docs/schema.md, with its type, and none that does not
// exist; every kind of record, and every name in meta.
func TestSchemaIsDescribed(t *testing.T) {
	db := writtenDatabase(t)
	tables := answer(t, db, "SELECT name FROM sqlite_schema WHERE type = 'table'")
	for _, table := range tables {
		want := answer(t, db, fmt.Sprintf("SELECT name FROM pragma_table_xinfo('%s')", table))
		wantSame(t, "columns of "+table, schemaRows(t, table)["column"], want)
	}
	text, err := os.ReadFile(schemaDoc)
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range regexp.MustCompile(`(?s)\n## (\w+)\n[^#]*?\n\| column \|`).FindAllStringSubmatch(string(text), -1) {
		if !slices.Contains(tables, found[1]) {
			t.Errorf("%s describes a table %s, which is not there; there are %v", schemaDoc, found[1], tables)
		}
	}
	for _, line := range answer(t, db, "SELECT t.name, c.name, c.type, c.pk FROM sqlite_schema t, pragma_table_xinfo(t.name) c WHERE t.type = 'table'") {
		c := strings.Split(line, "|")
		if row := fmt.Sprintf("| `%s` | %s", c[1], c[2]); !strings.Contains(string(text), row) {
			t.Errorf("%s does not say %q of table %s", schemaDoc, row, c[0])
		}
	}

	kinds := declared(t, `(?m)^\s+[rR]ecord[A-Z]\w*\s*=\s*"(\w+)"`, "../txn/*.go", "../auth/*.go", "../v2tree/*.go")
	wantSame(t, "kinds of records", schemaRows(t, "records")["kind"], kinds)
	for _, kind := range answer(t, db, "SELECT DISTINCT kind FROM records") {
		if !slices.Contains(kinds, kind) {
			t.Errorf("a member writes records of kind %s, and the code has %v", kind, kinds)
		}
	}
	names := declared(t, `(?m)^\s+meta[A-Z]\w*\s*=\s*"(\w+)"`, "../sqlstore/schema.go")
	wantSame(t, "names in meta", schemaRows(t, "meta")["name"], names)
	wantSame(t, "names in meta", names, answer(t, db, "SELECT name FROM meta"))
}

// sqlBlock is a query in a document, with what it answers in comments below it.
var sqlBlock = regexp.MustCompile("(?s)\n```sql\n(.*?)```\n")

// The queries of docs/schema.md answer what stands below them.
func TestSchemaQueries(t *testing.T) {
	db := writtenDatabase(t)
	text, err := os.ReadFile(schemaDoc)
	if err != nil {
		t.Fatal(err)
	}
	blocks := sqlBlock.FindAllStringSubmatch(string(text), -1)
	if len(blocks) != strings.Count(string(text), "```sql") || len(blocks) < 5 {
		t.Fatalf("%d queries are found of %d", len(blocks), strings.Count(string(text), "```sql"))
	}
	for _, block := range blocks {
		var query, want []string
		for line := range strings.Lines(block[1]) {
			if row, ok := strings.CutPrefix(line, "-- "); ok {
				want = append(want, strings.TrimSpace(row))
				continue
			}
			query = append(query, line)
		}
		got := answer(t, db, strings.Join(query, ""))
		if len(want) == 0 {
			t.Errorf("nothing is said of what this answers:\n%s", block[1])
		}
		if !slices.EqualFunc(got, want, fits) {
			t.Errorf("%sgot  %q\nwant %q", strings.Join(query, ""), got, want)
		}
	}
}

// fits compares a row with one in which … stands for anything but nothing.
func fits(got, want string) bool {
	return regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(want), "…", "[^|]+") + "$").MatchString(got)
}
