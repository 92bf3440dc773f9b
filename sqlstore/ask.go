package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// ErrReadOnly: a question in SQL wants to do something else than read.
var ErrReadOnly = errors.New("sqlstore: questions in SQL only read")

// Question is SQL for a database file that may be in use.
type Question struct {
	Path string
	// Still: nobody writes the file, and it is all there is, as that of a snapshot.
	// Then nothing is made beside it.
	Still bool
	SQL   string // one statement
}

// askPragmas are run before the authorizer, which lets none of them be undone.
var askPragmas = []string{
	"busy_timeout = 5000",
	"query_only = 1",
	"trusted_schema = 0", // a file may come from anywhere
	"cache_size = -4096",
	"temp_store = FILE", // sorting a whole database must not take its size in memory
}

// maxAskedValue bounds the values that a question makes up, in bytes: of one such
// as a sum of all strings, SQLite would keep a gigabyte in memory.
const maxAskedValue = 64 << 20

// Ask calls columns once and row for each row of the answer; neither may keep the
// slice. Values are int64, float64, string, []byte or nil. Nothing can be written,
// no other file reached, and no lock of a member taken but SQLite's for readers;
// ErrReadOnly says what was refused. ctx ends it between rows and before the first
// one; a caller that must not wait for a row in between ends its process.
//
// SQLite makes its shared memory beside a file that is not still: only the file's
// owner and root may ask then, so that what is made is the owner's.
func Ask(ctx context.Context, q Question, columns func([]string) error, row func([]driver.Value) error) error {
	statement, err := oneStatement(q.SQL)
	if err != nil {
		return err
	}
	c, err := openForQuestions(q)
	if err != nil {
		return err
	}
	unhold, err := c.limit(sqlite3.SQLITE_LIMIT_LENGTH, maxAskedValue)
	if err != nil {
		return errors.Join(err, unhold())
	}
	guard := &questionGuard{}
	err = c.c.(sqlite.AuthorizerRegisterer).RegisterAuthorizer(guard.allow)
	if err == nil {
		err = c.answer(ctx, statement, columns, row)
	}
	if err != nil && guard.refused != "" {
		err = fmt.Errorf("%w; this one wants %s", ErrReadOnly, guard.refused)
	}
	return errors.Join(err, unhold())
}

// lent is a connection that database/sql holds, as the driver's limits want it.
type lent struct{ c driver.Conn }

func (l lent) Connect(context.Context) (driver.Conn, error) { return l.c, nil }
func (l lent) Driver() driver.Driver                        { return &sqlite.Driver{} }

// limit sets one of SQLite's limits; the caller ends with the function that it
// returns instead of close.
func (c *conn) limit(id, to int) (closeAll func() error, err error) {
	db := sql.OpenDB(lent{c.c})
	held, err := db.Conn(context.Background())
	if err != nil {
		return func() error { return errors.Join(db.Close(), c.close()) }, err
	}
	_, err = sqlite.Limit(held, id, to)
	return func() error { return errors.Join(held.Close(), db.Close()) }, err
}

// openForQuestions opens the file, again if a member has put another one in its
// place meanwhile: this one's WAL would then go with that one.
func openForQuestions(q Question) (*conn, error) {
	for range 10 {
		before, err := os.Stat(q.Path)
		if err != nil {
			return nil, err
		}
		if err := inspectFileHead(q.Path); err != nil {
			return nil, err
		}
		query := "mode=ro&_defensive=1"
		if q.Still {
			query += "&immutable=1"
		} else if err := ownedByAsker(q.Path, before); err != nil {
			return nil, err
		}
		c, err := openConn(uri(q.Path, query), askPragmas)
		if err != nil {
			return nil, err
		}
		app, err := c.int64("PRAGMA application_id") // opens the WAL, too
		if err == nil && app != ApplicationID {
			err = fmt.Errorf("%s is a SQLite database of another program (application_id %#x)", q.Path, app)
		}
		if err != nil {
			return nil, errors.Join(err, c.close())
		}
		if after, err := os.Stat(q.Path); err == nil && os.SameFile(before, after) {
			return c, nil
		}
		if err := c.close(); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%s is replaced again and again; ask again later", q.Path)
}

// inspectFileHead tells people more than SQLite's "file is not a database".
func inspectFileHead(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	var head [16]byte
	_, err = io.ReadFull(f, head[:])
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil || string(head[:]) != "SQLite format 3\x00" {
		return fmt.Errorf("%s is no SQLite database", path)
	}
	return nil
}

func ownedByAsker(path string, info os.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if me := os.Geteuid(); ok && me != 0 && uint32(me) != st.Uid {
		return fmt.Errorf("%s belongs to the user with the ID %d: ask as that one, or as root; files of another user beside it would keep the member from starting", path, st.Uid)
	}
	return nil
}

func (c *conn) answer(ctx context.Context, sql string, columns func([]string) error, fn func([]driver.Value) error) error {
	rows, err := c.c.(driver.QueryerContext).QueryContext(ctx, sql, nil)
	if err != nil {
		return err
	}
	names := rows.Columns()
	if err := columns(names); err != nil {
		return errors.Join(err, rows.Close())
	}
	return each(rows, make([]driver.Value, len(names)), func(row []driver.Value) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return fn(row)
	})
}

// questionGuard is SQLite's authorizer: it is asked for everything that a
// statement would do, before the statement runs.
type questionGuard struct {
	refused string // the first thing
}

// readingPragmas change nothing, with an argument or without.
var readingPragmas = []string{
	"collation_list", "compile_options", "database_list", "foreign_key_list", "function_list", "index_info", "index_list",
	"index_xinfo", "integrity_check", "pragma_list", "quick_check", "table_info", "table_list", "table_xinfo",
}

// askingPragmas change something if they have an argument.
var askingPragmas = []string{
	"application_id", "auto_vacuum", "data_version", "encoding", "freelist_count", "journal_mode", "page_count", "page_size",
	"query_only", "schema_version", "user_version",
}

// deniedActions are the words for what people try.
var deniedActions = map[sqlite.AuthorizerActionCode]string{
	sqlite.AuthAttach: "to ATTACH a database", sqlite.AuthDetach: "to DETACH a database",
	sqlite.AuthInsert: "to INSERT", sqlite.AuthUpdate: "to UPDATE", sqlite.AuthDelete: "to DELETE",
	sqlite.AuthPragma: "to set a PRAGMA", sqlite.AuthTransaction: "a transaction", sqlite.AuthSavepoint: "a savepoint",
	sqlite.AuthFunction: "to load code",
}

// allow lets through what only reads; all that SQLite may come to know besides is
// refused.
func (g *questionGuard) allow(action sqlite.AuthorizerActionCode, arg1, arg2, _, _ string) sqlite.AuthorizerReturnCode {
	ok := false
	switch action {
	case sqlite.AuthSelect, sqlite.AuthRead, sqlite.AuthRecursive:
		ok = true
	case sqlite.AuthFunction:
		ok = !strings.EqualFold(arg2, "load_extension")
	case sqlite.AuthPragma:
		name := strings.ToLower(arg1)
		ok = slices.Contains(readingPragmas, name) || arg2 == "" && slices.Contains(askingPragmas, name)
	}
	if ok {
		return sqlite.AuthorizerOK
	}
	if g.refused == "" {
		if g.refused = deniedActions[action]; g.refused == "" {
			g.refused = "to change the schema"
		}
	}
	return sqlite.AuthorizerDeny
}

// oneStatement returns sql without the semicolon at its end. What stands behind
// one would run, too, and its answer be lost.
func oneStatement(sql string) (string, error) {
	sql = strings.TrimSpace(sql)
	end := statementEnd(sql)
	if end == 0 {
		return "", errors.New("the question is empty; write it in quotes, as in limpet sql 'SELECT count(*) FROM revisions'")
	}
	if rest := strings.TrimSpace(strings.TrimLeft(sql[end:], "; \t\r\n")); rest != "" && statementEnd(rest) > 0 && !onlyComment(rest) {
		return "", fmt.Errorf("one question at a time: after the first semicolon comes %.40q", rest)
	}
	if strings.ContainsRune(sql, 0) {
		return "", errors.New("the question has a zero byte, at which SQLite would stop reading")
	}
	return sql[:end], nil
}

// statementEnd is where the first semicolon outside of strings, names and comments
// stands, or the end.
func statementEnd(sql string) int {
	for i := 0; i < len(sql); i++ {
		closing := ""
		switch c := sql[i]; {
		case c == ';':
			return i
		case c == '\'' || c == '"' || c == '`':
			closing = string(c)
		case c == '[':
			closing = "]"
		case strings.HasPrefix(sql[i:], "--"):
			closing = "\n"
		case strings.HasPrefix(sql[i:], "/*"):
			i++
			closing = "*/"
		}
		if closing == "" {
			continue
		}
		n := strings.Index(sql[i+1:], closing)
		if n < 0 {
			return len(sql)
		}
		i += n + len(closing)
	}
	return len(sql)
}

// onlyComment reports whether nothing of sql would run.
func onlyComment(sql string) bool {
	for {
		sql = strings.TrimLeft(sql, "; \t\r\n")
		closing := "\n"
		switch {
		case sql == "":
			return true
		case strings.HasPrefix(sql, "/*"):
			sql, closing = sql[2:], "*/"
		case !strings.HasPrefix(sql, "--"):
			return false
		}
		_, rest, _ := strings.Cut(sql, closing)
		sql = rest
	}
}
