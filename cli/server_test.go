package cli

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// logged is what a logger writes to a file.
func logged(t *testing.T, level, format string, say func(log *slog.Logger)) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "log")
	log, err := openLog(level, format, file)
	if err != nil {
		t.Fatalf("openLog(%s, %s): %v", level, format, err)
	}
	say(log.Logger)
	log.close()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
}

// Log processors made for etcd read limpet's lines: level in lower case, ts in
// UTC with microseconds, msg, and durations as people write them.
func TestLoggerJSON(t *testing.T) {
	lines := logged(t, "info", "json", func(log *slog.Logger) {
		log.Warn("trouble", "took", 1500*time.Millisecond, "error", errors.New("disk full"), "index", 7, "urls", []string{"a", "b"})
	})
	var got map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &got); err != nil {
		t.Fatalf("%v in %q", err, lines)
	}
	ts, _ := got["ts"].(string)
	if at, err := time.Parse("2006-01-02T15:04:05.000000Z", ts); err != nil || at.IsZero() {
		t.Errorf("ts: got %q, %v, want UTC with microseconds", ts, err)
	}
	delete(got, "ts")
	want := map[string]any{"level": "warn", "msg": "trouble", "took": "1.5s", "error": "disk full", "index": 7.0, "urls": []any{"a", "b"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("line: got %v, want %v beside ts", got, want)
	}
	if !strings.HasPrefix(lines[0], `{"ts":"`) || strings.Index(lines[0], `"level"`) > strings.Index(lines[0], `"msg"`) {
		t.Errorf("order of the keys: got %s", lines[0])
	}
}

func TestLoggerText(t *testing.T) {
	for _, format := range []string{"text", "console"} {
		lines := logged(t, "info", format, func(log *slog.Logger) { log.Info("hello there", "took", time.Minute) })
		if !strings.HasPrefix(lines[0], "ts=") || !strings.HasSuffix(lines[0], ` level=info msg="hello there" took=1m0s`) {
			t.Errorf("format %s: got %s", format, lines[0])
		}
	}
}

func TestLoggerLevels(t *testing.T) {
	all := []string{"debug", "info", "warn", "error"}
	for _, c := range []struct {
		level string
		want  []string
	}{
		{"debug", all},
		{"info", all[1:]},
		{"", all[1:]},
		{"warn", all[2:]},
		{"error", all[3:]},
		{"dpanic", all[3:]}, // zap's levels beyond error, which slog does not know
		{"panic", all[3:]},
		{"fatal", all[3:]},
	} {
		lines := logged(t, c.level, "json", func(log *slog.Logger) {
			log.Debug("debug")
			log.Info("info")
			log.Warn("warn")
			log.Error("error")
		})
		var got []string
		for _, line := range lines {
			var l struct{ Level, Msg string }
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatalf("%v in %q", err, line)
			}
			if l.Level != l.Msg {
				t.Errorf("level of %q: got %q", l.Msg, l.Level)
			}
			got = append(got, l.Msg)
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("level %q lets through %v, want %v", c.level, got, c.want)
		}
	}
}

func TestLoggerRefuses(t *testing.T) {
	_, err := openLog("loud", "json", "default")
	wantError(t, err, `--log-level is "loud", want debug, info, warn or error`)
	_, err = openLog("info", "xml", "default")
	wantError(t, err, `--log-format is "xml", want json or text`)
	gone := filepath.Join(t.TempDir(), "gone", "log")
	_, err = openLog("info", "json", gone)
	wantError(t, err, "--log-outputs: open "+gone+": no such file or directory")
}

// Several outputs get the same lines, and a file is written on, not over.
func TestLoggerOutputs(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for range 2 {
		log, err := openLog("info", "json", a+" , "+b)
		if err != nil {
			t.Fatal(err)
		}
		log.Info("x")
		log.close()
	}
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if string(x) != string(y) || strings.Count(string(x), "\n") != 2 {
		t.Errorf("two files after two lines: got %q and %q, want both lines in both", x, y)
	}
}

// What is wrong is said in one sentence, before anything is touched.
func TestServerRefuses(t *testing.T) {
	cleanEnv(t)
	taken := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(taken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"now"}, `"now" is not a valid flag; see limpet server --help`},
		{[]string{"--log-level=loud"}, `--log-level is "loud", want debug, info, warn or error`},
		{[]string{"--log-format=xml"}, `--log-format is "xml", want json or text`},
		{[]string{"--metrics=all"}, `--metrics is "all", want basic or extensive`},
		{[]string{"--listen-client-urls="}, "--listen-client-urls is empty; give a URL such as http://localhost:2379"},
		{[]string{"--data-dir", taken}, "the data directory " + taken + " is a file; give a folder with --data-dir"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			t.Chdir(t.TempDir())
			_, err := limpet(append([]string{"server"}, c.args...)...)
			wantError(t, err, c.want)
			if left, err := os.ReadDir("."); err != nil || len(left) != 0 {
				t.Errorf("the folder afterwards: got %v, %v, want it empty", left, err)
			}
		})
	}
}
