package sqlstore

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"

	"modernc.org/sqlite"
)

// conn is one SQLite connection, used by one goroutine at a time. It talks to
// the driver directly: database/sql's pool and conversions cost a third more
// per row and offer nothing to a store with one writer and a few readers.
type conn struct {
	c     driver.Conn
	stmts []driver.Stmt // to finalize; SQLite keeps a connection with open ones alive
}

// openConn opens path and runs the pragmas in order.
func openConn(path string, pragmas []string) (*conn, error) {
	dc, err := (&sqlite.Driver{}).Open(path)
	if err != nil {
		return nil, err
	}
	c := &conn{c: dc}
	if err := c.set(pragmas); err != nil {
		return nil, errors.Join(err, dc.Close())
	}
	return c, nil
}

// openReadOnly opens path for reading. Such a connection, even as the last one,
// never moves SQLite's WAL into the file nor removes it when it closes: it may
// outlive the file's name, which a WAL of another file then has beside it.
func openReadOnly(path string, pragmas []string) (*conn, error) {
	return openConn(uri(path, "mode=ro"), pragmas)
}

// openStill opens a file that nobody writes, without looking at a WAL and
// without making one.
func openStill(path string) (*conn, error) {
	return openConn(uri(path, "mode=ro&immutable=1"), nil)
}

// uri is https://www.sqlite.org/uri.html; an escaped slash cannot be mistaken
// for an authority.
func uri(path, query string) string { return "file:" + url.PathEscape(path) + "?" + query }

func (c *conn) set(pragmas []string) error {
	for _, p := range pragmas {
		if err := c.exec("PRAGMA " + p); err != nil {
			return fmt.Errorf("PRAGMA %s: %w", p, err)
		}
	}
	return nil
}

func (c *conn) close() error {
	var errs []error
	for _, s := range c.stmts {
		errs = append(errs, s.Close())
	}
	c.stmts = nil
	return errors.Join(append(errs, c.c.Close())...)
}

func (c *conn) exec(sql string, args ...driver.Value) error {
	_, err := c.c.(driver.ExecerContext).ExecContext(context.Background(), sql, named(args))
	return err
}

// int64 runs a query that yields one number, such as a PRAGMA.
func (c *conn) int64(sql string) (int64, error) {
	var n int64
	err := c.query(sql, 1, func(row []driver.Value) error {
		v, ok := row[0].(int64)
		if !ok {
			return fmt.Errorf("%s: got %T, want a number", sql, row[0])
		}
		n = v
		return errStop
	})
	return n, err
}

// query runs sql once and calls fn for each row; fn must not keep the slice.
func (c *conn) query(sql string, cols int, fn func(row []driver.Value) error, args ...driver.Value) error {
	return c.queryUntil(context.Background(), sql, cols, fn, args...)
}

// queryUntil is query, which ends with ctx, also between two rows.
func (c *conn) queryUntil(ctx context.Context, sql string, cols int, fn func(row []driver.Value) error, args ...driver.Value) error {
	rows, err := c.c.(driver.QueryerContext).QueryContext(ctx, sql, named(args))
	if err != nil {
		return err
	}
	return each(rows, make([]driver.Value, cols), fn)
}

// stmt is a prepared statement with room for its arguments and its columns,
// reused from call to call.
type stmt struct {
	s    driver.Stmt
	args []driver.NamedValue
	cols []driver.Value
}

func (c *conn) prepare(sql string, cols int) (*stmt, error) {
	s, err := c.c.Prepare(sql)
	if err != nil {
		return nil, fmt.Errorf("prepare %q: %w", sql, err)
	}
	c.stmts = append(c.stmts, s)
	return &stmt{s: s, cols: make([]driver.Value, cols)}, nil
}

func (s *stmt) bind(args []driver.Value) []driver.NamedValue {
	if len(s.args) != len(args) {
		s.args = named(args)
	}
	for i := range args {
		s.args[i].Value = args[i]
	}
	return s.args
}

func (s *stmt) exec(args ...driver.Value) error {
	_, err := s.s.(driver.StmtExecContext).ExecContext(context.Background(), s.bind(args))
	return err
}

func (s *stmt) query(fn func(row []driver.Value) error, args ...driver.Value) error {
	rows, err := s.s.(driver.StmtQueryContext).QueryContext(context.Background(), s.bind(args))
	if err != nil {
		return err
	}
	return each(rows, s.cols, fn)
}

// errStop ends an iteration early without being an error.
var errStop = errors.New("stop")

func each(rows driver.Rows, dest []driver.Value, fn func([]driver.Value) error) (err error) {
	defer func() {
		if cerr := rows.Close(); err == nil {
			err = cerr
		}
	}()
	for {
		switch err := rows.Next(dest); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := fn(dest); err != nil {
			if errors.Is(err, errStop) {
				return nil
			}
			return err
		}
	}
}

func named(args []driver.Value) []driver.NamedValue {
	out := make([]driver.NamedValue, len(args))
	for i, a := range args {
		out[i] = driver.NamedValue{Ordinal: i + 1, Value: a}
	}
	return out
}
