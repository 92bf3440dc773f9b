package server

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"limpet/sqlstore"
)

const flushPath = "/flush"

// confirmPatience bounds how long a question waits for the cluster to confirm that
// the member is up to date; without that, it is told what the member knows.
const confirmPatience = 2 * time.Second

// adminFlush writes all that the member knows to its database.
func (s *Server) adminFlush(w http.ResponseWriter, r *http.Request) {
	select {
	case <-s.built: // s.api and s.store are there
	default:
		http.Error(w, "this member is not in a cluster yet", http.StatusConflict)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), confirmPatience)
	_ = s.api.LinearizableRead(ctx)
	cancel()
	if err := s.store.WaitDurable(r.Context(), s.store.Applied()); err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	s.adminReport(w, r)
}

// Flush has the member write to its database all that it knows, and reports false
// if none runs with the directory.
func (a *Admin) Flush(ctx context.Context) (runs bool, err error) {
	_, err = a.ask(ctx, http.MethodPost, flushPath)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return false, nil
	}
	if err != nil && strings.HasPrefix(err.Error(), "404 ") {
		err = errors.New("the member that runs is an older limpet, which cannot be asked to write what it has in memory: restart it with this one, or stop it")
	}
	return true, err
}

// Answer takes what a question in SQL is answered with: the names of the columns
// once, and then the rows. Neither may keep its slice.
type Answer struct {
	Columns func(names []string) error
	Row     func(values []driver.Value) error
}

// AskDatabase answers a question in SQL from the database of a data directory. A
// member that runs with it is asked to write what it has in memory before.
func AskDatabase(ctx context.Context, dir, sql string, a Answer) error {
	file := filepath.Join(dir, databaseName)
	if _, err := os.Stat(filepath.Join(dir, identityName)); err != nil {
		return fmt.Errorf("%s is no data directory of limpet (%w); name one with --data-dir, or a snapshot with --file", dir, unwrapPath(err))
	}
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("the member of %s has no database yet", dir)
	}
	if _, err := AdminOf(dir).Flush(ctx); err != nil {
		return err
	}
	return ask(ctx, sqlstore.Question{Path: file, SQL: sql}, a)
}

// AskSnapshot answers a question in SQL from a file that nobody writes, as
// etcdctl snapshot save leaves it.
func AskSnapshot(ctx context.Context, file, sql string, a Answer) error {
	if _, err := os.Stat(filepath.Join(filepath.Dir(file), identityName)); err == nil && filepath.Base(file) == databaseName {
		return fmt.Errorf("%s is the database of a data directory, whose newest part is in memory and in another file: ask with --data-dir %s", file, filepath.Dir(file))
	}
	if info, err := os.Stat(file + "-wal"); err == nil && info.Size() > 0 {
		return fmt.Errorf("%s has its newest part in %s-wal; copy it with sqlite3 %s '.backup NEW', and ask the copy", file, file, file)
	}
	return ask(ctx, sqlstore.Question{Path: file, Still: true, SQL: sql}, a)
}

func ask(ctx context.Context, q sqlstore.Question, a Answer) error {
	err := sqlstore.Ask(ctx, q, a.Columns, a.Row)
	if errors.Is(err, sqlstore.ErrReadOnly) {
		return errors.New(strings.TrimPrefix(err.Error(), "sqlstore: ")) // it is for the operator
	}
	return err
}
