package cli

import (
	"bytes"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"limpet/api/look"
)

func TestParseWhen(t *testing.T) {
	zone := time.FixedZone("somewhere", 2*3600)
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, zone)
	for text, want := range map[string]string{
		"now": "now", "7": "7", "9223372036854775807": "9223372036854775807",
		"10m": "2026-05-04T11:50:00+02:00", "2h": "2026-05-04T10:00:00+02:00", "3d": "2026-05-01T12:00:00+02:00", "0s": "2026-05-04T12:00:00+02:00",
		"2026-05-04 11:00": "2026-05-04T11:00:00+02:00", "2026-05-04 11:00:07": "2026-05-04T11:00:07+02:00", "2026-05-04": "2026-05-04T00:00:00+02:00",
		"2026-05-04T09:00:00Z": "2026-05-04T09:00:00Z", "2026-05-04T08:00:00.5-01:00": "2026-05-04T08:00:00.5-01:00",
		"": "", "0": "", "-1": "", "-10m": "", "10": "10", "9223372036854775808": "", "1x": "", "yesterday": "", "2027-01-01": "", "1960-01-01": "",
		"2026-13-01": "", "99999d": "", "١": "", "1e3": "", "+5m": "2026-05-04T11:55:00+02:00",
	} {
		w, err := parseWhen(text, now)
		got := ""
		switch {
		case err != nil:
		case w == (when{}):
			got = "now"
		case w.rev != 0:
			got = fmt.Sprint(w.rev)
		default:
			got = w.at.Format(time.RFC3339Nano)
		}
		if got != want || err != nil && !strings.Contains(err.Error(), text) {
			t.Errorf("%q: got %q, %v, want %q", text, got, err, want)
		}
	}
	for _, c := range []struct{ rev, at string }{{"1", "1h"}, {"0", ""}, {"-3", ""}, {"x", ""}, {"", "7"}, {"", "now"}} {
		if w, err := oneMoment(c.rev, c.at, now); err == nil {
			t.Errorf("--rev %q --at %q: got %+v, want an error", c.rev, c.at, w)
		}
	}
}

// Flags may stand behind arguments, and keys may look like flags.
func TestAnyOrder(t *testing.T) {
	for line, want := range map[string]string{
		"a":                  "a||false",
		"--rev 5 a":          "a|5|false",
		"a --rev 5":          "a|5|false",
		"a --rev=5 --prefix": "a|5|true",
		"a -rev 5 b":         "a b|5|false",
		"-- -b":              "-b||false",
		"a -- -b":            "a -b||false",
		"a --prefix=false":   "a||false",
		"a --rev":            "error: --rev needs a value",
		"a --nothing":        "error: there is no flag --nothing",
		"a --prefix=perhaps": "error: invalid value",
		"a b c":              "error: wants KEY",
		"":                   "error: wants KEY",
		"a -":                "a -||false",
	} {
		var got string
		app := &cli.App{Name: "limpet", Writer: new(bytes.Buffer), ExitErrHandler: func(*cli.Context, error) {}, Commands: []*cli.Command{{
			Name: "x", ArgsUsage: "KEY", Flags: []cli.Flag{&cli.StringFlag{Name: "rev"}, &cli.BoolFlag{Name: "prefix"}},
			Action: func(c *cli.Context) error {
				args, err := anyOrder(c, 1, 2)
				got = fmt.Sprintf("%s|%s|%v", strings.Join(args, " "), c.String("rev"), c.Bool("prefix"))
				return err
			},
		}}}
		if err := app.Run(append([]string{"limpet", "x"}, strings.Fields(line)...)); err != nil {
			got = "error: " + err.Error()
		}
		if text, failed := strings.CutPrefix(want, "error: "); failed && !strings.Contains(got, text) || !failed && got != want {
			t.Errorf("limpet x %s: got %q, want %q", line, got, want)
		}
	}
}

func TestKeyAtRevision(t *testing.T) {
	for _, c := range []struct {
		word, rev, key string
		at             int64
		ok             bool
	}{
		{"a", "", "a", 0, true}, {"a@5", "", "a", 5, true}, {"a@b@12", "", "a@b", 12, true}, {"a@", "", "a@", 0, true}, {"a@x", "", "a@x", 0, true},
		{"a@5", "7", "a@5", 7, true}, {"@5", "", "", 0, false}, {"", "", "", 0, false}, {"a@0", "", "a", 0, false}, {"a@99999999999999999999", "", "a", 0, false}, {"a", "x", "a", 0, false},
	} {
		key, at, err := keyAtRevision(c.word, c.rev)
		if (err == nil) != c.ok || c.ok && (key != c.key || at != c.at) {
			t.Errorf("%q, --rev %q: got %q, %d, %v, want %q, %d", c.word, c.rev, key, at, err, c.key, c.at)
		}
	}
}

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{"a/b": "a/b", "ä €": "ä €", "a\nb\t": `a\nb\t`, "\x00\xff": "x'00ff'", "\x1b[2J": "x'1b5b324a'", "": "", "\u202e": "x'e280ae'"} {
		if got := oneLine([]byte(in)); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}

func signs(lines []diffLine) string {
	var b strings.Builder
	for _, l := range lines {
		if l.sign == 0 {
			l = diffLine{'.', ""}
		}
		fmt.Fprintf(&b, "%c%s ", l.sign, l.text)
	}
	return strings.TrimSpace(b.String())
}

func TestDiffLines(t *testing.T) {
	for _, c := range []struct{ a, b, want string }{
		{"", "", ""},
		{"a\n", "a", "a"},
		{"", "a\nb", "+a +b"},
		{"a\nb\nc", "a\nc", "a -b  c"},
		{"a\nb\nc\nd", "x\nb\ny\nd", "-a +x  b -c +y  d"},
	} {
		if got := signs(diffLines(c.a, c.b)); got != c.want {
			t.Errorf("%q and %q: got %q, want %q", c.a, c.b, got, c.want)
		}
	}
	far := "1\n2\n3\n4\n5\n6\n7\n8\n9"
	if got, want := signs(nearChanges(diffLines(far, strings.Replace(far, "5", "five", 1)))), ".  3  4 -5 +five  6  7 ."; got != want {
		t.Errorf("near changes: got %q, want %q", got, want)
	}
	// Texts that are too large to compare take no more memory than they have.
	var a, b strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&a, "a%d\n", i)
		fmt.Fprintf(&b, "b%d\n", i)
	}
	if n := len(diffLines(a.String(), b.String())); n != 10000 {
		t.Errorf("two large texts: got %d lines, want 10000", n)
	}
}

func TestPrintChanges(t *testing.T) {
	changes := []look.Change{
		{Revision: 2, Time: time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.Local).UnixMilli(), Key: []byte("a"), Create: 2, Version: 1, Size: 3, Before: -1, Value: []byte("x\ny")},
		{Revision: 3, Key: []byte("a\xff"), Create: 2, Version: 2, Lease: 0x1f, Size: 30, Before: 3, Value: []byte("k8s:enc:aescbc:v1:key1:\x00")},
		{Revision: 4, Key: []byte("a"), Before: 30},
	}
	var out bytes.Buffer
	p := &changePrinter{w: &out, values: true, keys: true}
	for i := range changes {
		if err := p.print(&changes[i]); err != nil {
			t.Fatal(err)
		}
	}
	want := strings.Join([]string{
		"REVISION    TIME                     KIND    VERSION      SIZE    CHANGE  LEASE             WRITTEN BY                          KEY",
		"2           2026-01-02 03:04:05.006  create        1         3        +3  -                 -                                   a",
		"    x",
		"    y",
		"3           -                        put           2        30       +27  000000000000001f  encrypted by aescbc                 x'61ff'",
		"    x'6b38733a656e633a6165736362633a76313a6b6579313a00'",
		"4           -                        delete        -         0       -30  -                 -                                   a",
		"",
	}, "\n")
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	out.Reset()
	p = &changePrinter{w: &out, json: json.NewEncoder(&out), asJSON: true, values: true}
	for i := range changes {
		if err := p.print(&changes[i]); err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Split(out.String(), "\n")
	for i, parts := range [][]string{
		{`"kind":"create"`, `"key":"a"`, `"value":"x\ny"`},
		{`"key_base64":"Yf8="`, `"kubernetes":{"encrypted":"aescbc"}`, `"size_before_bytes":3`, `"value":"k8s:enc`},
		{`"kind":"delete"`, `"version":0`},
	} {
		for _, part := range parts {
			if !strings.Contains(lines[i], part) || !json.Valid([]byte(lines[i])) {
				t.Errorf("line %d: got %s, want %s in it", i, lines[i], part)
			}
		}
	}
}

func TestPrintDifferences(t *testing.T) {
	kv := func(value string) *mvccpb.KeyValue {
		return &mvccpb.KeyValue{Key: []byte("a"), Value: []byte(value), ModRevision: 2}
	}
	for want, d := range map[string]difference{
		"+ a  2 bytes\n    + x\n":            {'+', nil, kv("x\n")},
		"- a  1 bytes\n    - x\n":            {'-', kv("x"), nil},
		"~ a  1 bytes, the same value\n":     {'~', kv("x"), kv("x")},
		"~ a  1 → 2 bytes\n    (not text)\n": {'~', kv("x"), kv("\x00\x01")},
		"~ a  7 → 7 bytes\n      {\n    -   \"a\": 1\n    +   \"a\": 2\n      }\n": {'~', kv(`{"a":1}`), kv(`{"a":2}`)},
	} {
		var out bytes.Buffer
		p := diffPrinter{w: &out, values: true}
		if err := p.print(d); err != nil {
			t.Fatal(err)
		}
		if want == "~ a  1 bytes, the same value\n" {
			want += "      …\n"
		}
		if out.String() != want {
			t.Errorf("got %q, want %q", out.String(), want)
		}
	}
}

func TestPrintRows(t *testing.T) {
	rows := [][]driver.Value{{int64(1), nil, []byte("a\nb")}, {2.5, "ü", []byte{0, 255}}, {math.Inf(1), "x,y", []byte{}}}
	for output, want := range map[string]string{
		"table": "n     t     v\n1     NULL  a\\nb\n2.5   ü     x'00ff'\n+Inf  x,y   \n",
		"json":  `{"n":1,"t":null,"v":"a\nb"}` + "\n" + `{"n":2.5,"t":"ü","v":"x'00ff'"}` + "\n" + `{"n":"+Inf","t":"x,y","v":""}` + "\n",
		"csv":   "n,t,v\n1,,\"a\nb\"\n2.5,ü,x'00ff'\n+Inf,\"x,y\",\n",
	} {
		var out bytes.Buffer
		p, err := newRowPrinter(&out, output)
		if err != nil {
			t.Fatal(err)
		}
		err = p.columns([]string{"n", "t", "v"})
		for _, r := range rows {
			if err == nil {
				err = p.row(r)
			}
		}
		if err == nil {
			err = p.end()
		}
		if err != nil || out.String() != want {
			t.Errorf("%s: got %q, %v, want %q", output, out.String(), err, want)
		}
	}
	if _, err := newRowPrinter(nil, "xml"); err == nil {
		t.Error("xml: got no error")
	}
	// A long answer does not wait for its end.
	var out bytes.Buffer
	p := &tableRows{w: &out}
	if err := p.columns([]string{"n"}); err != nil {
		t.Fatal(err)
	}
	for i := range int64(2 * tableFirst) {
		if err := p.row([]driver.Value{i}); err != nil {
			t.Fatal(err)
		}
	}
	if lines := strings.Count(out.String(), "\n"); lines != 2*tableFirst+1 {
		t.Errorf("before the end: %d lines, want %d", lines, 2*tableFirst+1)
	}
}

func TestLookRefusals(t *testing.T) {
	cleanEnv(t)
	for line, want := range map[string]string{
		"get":                           "wants KEY",
		"get a b":                       "wants KEY",
		"get a --rev 0":                 "--rev",
		"get a --rev 1 --at 1h":         "exclude each other",
		"get a --output xml":            "--output",
		"history a --limit -1":          "--limit",
		"history a --limit 10001":       "--limit",
		"history a --since tomorrow":    "--since",
		"diff 1":                        "wants FROM TO",
		"diff x now":                    `"x" is no time`,
		"undelete a@0":                  "is no revision",
		"sql":                           "wants 'SELECT",
		"sql a --file x --data-dir y":   "exclude each other",
		"sql a --output xml":            "--output",
		"sql a --timeout -1s":           "--timeout",
		"sql a --data-dir /nonexistent": "no data directory of limpet",
	} {
		if out, err := limpet(strings.Fields(line)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("limpet %s: got %q, %v, want an error with %q", line, out, err, want)
		}
	}
}

// An answer that is not whole is never taken for one.
func TestHistoryBreaksOff(t *testing.T) {
	cleanEnv(t)
	const head = `{"head":{"revision":5,"floor":3}}` + "\n"
	const change = `{"change":{"revision":4,"id":1,"time":1000,"key":"aw==","create_revision":4,"version":1,"size":1,"before":-1}}` + "\n"
	for name, c := range map[string]struct {
		status int
		body   string
		want   string // in the error; empty: there is none
	}{
		"whole":            {200, head + change + `{"end":{"more":false}}`, ""},
		"cut":              {200, head + change, "breaks off"},
		"cut in a line":    {200, head + change[:20], "breaks off"},
		"empty":            {200, "", "breaks off"},
		"an error":         {200, head + change + `{"error":"a compaction was faster"}`, "a compaction was faster"},
		"no JSON":          {200, "<html>", "invalid character"},
		"nothing happened": {200, head + `{"end":{"more":false}}`, "since revision 3, and what was before is compacted"},
		"an etcd":          {404, "404 page not found", "tells no history"},
		"refused":          {403, "limpet: permission denied: so", ": permission denied: so"},
		"unknown":          {401, "limpet: authentication is enabled", "give --user"},
		"a proxy":          {502, "oops", "502 Bad Gateway"},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			}))
			defer s.Close()
			out, err := limpet("history", "k", "--endpoints", s.URL)
			if c.want == "" && (err != nil || !strings.Contains(out, "create")) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %q, %v, want an error with %q", out, err, c.want)
			}
		})
	}
}

// A member that is silent is not waited for longer than --timeout says, at any line.
func TestHistoryStalls(t *testing.T) {
	cleanEnv(t)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `{"head":{"revision":5,"floor":3}}`+"\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	defer s.Close()
	if _, err := limpet("history", "k", "--endpoints", s.URL, "--timeout", "200ms"); err == nil || !strings.Contains(err.Error(), "nothing came for 200ms") {
		t.Errorf("got %v, want that nothing came", err)
	}
}
