package cli

import (
	"bufio"
	"context"
	"database/sql/driver"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/urfave/cli/v2"

	"limpet/backup"
	"limpet/server"
)

func sqlCommand() *cli.Command {
	cmd := &cli.Command{
		Name:      "sql",
		Usage:     "ask a member's database a question in SQL",
		ArgsUsage: "'SELECT …'",
		Description: "Answers one statement of SQLite's SQL that only reads, of a member on this machine\n" +
			"that runs or not, or of a snapshot. A member that runs writes what it has in memory\n" +
			"before, so that the answer is up to date. The tables are revisions, records and meta;\n" +
			"docs/schema.md describes them. Ask as the user that limpet runs as, or as root.\n\n" +
			"    limpet sql 'SELECT revision, key, value FROM revisions ORDER BY id DESC LIMIT 5'\n" +
			"    limpet sql --file snapshot.db --output csv 'SELECT * FROM meta'\n\n" +
			"Bytes are printed as text if they are, else in hex, as x'00ff'. While a question is\n" +
			"answered the member's write-ahead file cannot be taken over and grows: that is what\n" +
			"--timeout bounds. Ask long questions of a snapshot.",
		Flags: []cli.Flag{
			dataDirFlag(),
			&cli.StringFlag{Name: "file", Usage: "a snapshot, also a compressed one, or another copy that nobody writes, instead of --data-dir"},
			tempFlag(),
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "table, json (an object a line) or csv", Value: "table"},
			&cli.DurationFlag{Name: "timeout", Usage: "how long the answer may take", Value: 30 * time.Second},
		},
		OnUsageError: usageError,
	}
	cmd.Action = func(c *cli.Context) error {
		args, err := anyOrder(c, 1, 1)
		if err != nil {
			return err
		}
		if c.String("file") != "" && c.IsSet("data-dir") {
			return errors.New("--file and --data-dir exclude each other; give one")
		}
		if c.Duration("timeout") <= 0 {
			return badValue("timeout", c.Duration("timeout").String(), "a duration such as 30s")
		}
		return withUnpacked(c, c.String("file"), func(file string) error { return askSQL(c, file, args[0]) })
	}
	cmd.Action = untilSignal(cmd.Action)
	return cmd
}

// withUnpacked hands a file to do; one that is compressed is unpacked for that time.
func withUnpacked(c *cli.Context, file string, do func(file string) error) error {
	if file == "" {
		return do("")
	}
	if packed, err := backup.IsCompressed(file); err != nil || !packed {
		return do(file) // which says what is wrong with it
	}
	meter := newMeter("unpacking")
	_, d, err := backup.Open(c.Context, file, tempDir(c), meter.tell)
	meter.end()
	if err != nil {
		return err
	}
	return errors.Join(do(d.Path), d.Close())
}

// answerGrace is how long an answer that is out of time has to end by itself.
const answerGrace = time.Second

// askSQL asks, and gives up when the time is over even if SQLite is within a row, or
// the reader of the output does not read: the process then ends, and with it what
// holds the member's file.
func askSQL(c *cli.Context, file, sql string) error {
	out := bufio.NewWriter(c.App.Writer)
	p, err := newRowPrinter(out, c.String("output"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
	defer cancel()
	done := make(chan error, 1)
	// Owner: this call; ends with the answer, or with the process.
	go func() {
		answer := server.Answer{Columns: p.columns, Row: p.row}
		var err error
		if file != "" {
			err = server.AskSnapshot(ctx, file, sql, answer)
		} else {
			err = server.AskDatabase(ctx, c.String("data-dir"), sql, answer)
		}
		done <- errors.Join(err, p.end(), out.Flush())
	}()
	select {
	case err = <-done:
	case <-ctx.Done():
		select {
		case err = <-done:
		case <-time.After(answerGrace):
			err = ctx.Err()
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the answer takes longer than %s; ask a snapshot, or give --timeout", c.Duration("timeout"))
	}
	return err
}

// rowPrinter prints the rows of an answer as they come.
type rowPrinter interface {
	columns(names []string) error
	row(values []driver.Value) error
	end() error
}

func newRowPrinter(w io.Writer, output string) (rowPrinter, error) {
	switch output {
	case "table":
		return &tableRows{w: w}, nil
	case "json":
		return &jsonRows{w: w}, nil
	case "csv":
		return &csvRows{w: csv.NewWriter(w)}, nil
	}
	return nil, badValue("output", output, "table, json or csv")
}

// sqlCell is a value as text.
func sqlCell(v driver.Value) string {
	switch v := v.(type) {
	case nil:
		return "NULL"
	case []byte:
		return sqlBytes(v)
	case string:
		return sqlBytes([]byte(v))
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	}
	return fmt.Sprint(v)
}

func sqlBytes(b []byte) string {
	if isText(b) {
		return string(b)
	}
	return fmt.Sprintf("x'%x'", b)
}

// tableRows prints a table. Its columns are as wide as the first rows need it, which
// are kept until then.
type tableRows struct {
	w      io.Writer
	first  [][]string
	bytes  int
	widths []int
	begun  bool
}

// tableFirst and tableBytes bound what is kept to find the widths, maxWidth what is
// filled up with spaces.
const (
	tableFirst = 100
	tableBytes = 1 << 20
	maxWidth   = 60
)

func (t *tableRows) columns(names []string) error {
	t.first = append(t.first, append([]string(nil), names...))
	t.widths = make([]int, len(names))
	return nil
}

func (t *tableRows) row(values []driver.Value) error {
	cells := make([]string, len(values))
	for i, v := range values {
		cells[i] = words(sqlCell(v))
		t.bytes += len(cells[i])
	}
	if t.begun {
		return t.line(cells)
	}
	t.first = append(t.first, cells)
	if len(t.first) > tableFirst || t.bytes > tableBytes {
		return t.end()
	}
	return nil
}

func (t *tableRows) end() error {
	for _, cells := range t.first {
		for i, c := range cells {
			t.widths[i] = max(t.widths[i], min(utf8.RuneCountInString(c), maxWidth))
		}
	}
	t.begun = true
	for _, cells := range t.first {
		if err := t.line(cells); err != nil {
			return err
		}
	}
	t.first = nil
	return nil
}

func (t *tableRows) line(cells []string) error {
	var b strings.Builder
	for i, c := range cells {
		b.WriteString(c)
		if i < len(cells)-1 {
			b.WriteString(strings.Repeat(" ", max(0, t.widths[i]-utf8.RuneCountInString(c))+2))
		}
	}
	_, err := fmt.Fprintln(t.w, b.String())
	return err
}

// jsonRows prints an object a line, its members in the order of the columns.
type jsonRows struct {
	w     io.Writer
	names [][]byte
}

func (j *jsonRows) columns(names []string) error {
	for _, n := range names {
		name, err := json.Marshal(n)
		if err != nil {
			return err
		}
		j.names = append(j.names, name)
	}
	return nil
}

func (j *jsonRows) row(values []driver.Value) error {
	line := []byte{'{'}
	for i, v := range values {
		if i > 0 {
			line = append(line, ',')
		}
		line = append(append(line, j.names[i]...), ':')
		switch x := v.(type) {
		case []byte:
			v = sqlBytes(x)
		case string:
			v = sqlBytes([]byte(x))
		case float64:
			if math.IsInf(x, 0) || math.IsNaN(x) {
				v = sqlCell(x)
			}
		}
		text, err := json.Marshal(v)
		if err != nil {
			return err
		}
		line = append(line, text...)
	}
	_, err := j.w.Write(append(line, '}', '\n'))
	return err
}

func (j *jsonRows) end() error { return nil }

// csvRows prints RFC 4180, with the names of the columns first; NULL is empty.
type csvRows struct{ w *csv.Writer }

func (r *csvRows) columns(names []string) error { return r.w.Write(names) }

func (r *csvRows) row(values []driver.Value) error {
	cells := make([]string, len(values))
	for i, v := range values {
		if v != nil {
			cells[i] = sqlCell(v)
		}
	}
	return r.w.Write(cells)
}

func (r *csvRows) end() error {
	r.w.Flush()
	return r.w.Error()
}
