package cli

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestBytesText(t *testing.T) {
	for _, c := range []struct {
		n    int64
		want string
	}{
		{-1, "none"},
		{0, "0.0 KiB"},
		{51, "0.0 KiB"},
		{1 << 10, "1.0 KiB"},
		{20 << 10, "20.0 KiB"},
		{1<<20 - 1, "1024.0 KiB"},
		{1 << 20, "1.0 MiB"},
		{5<<20 + 512<<10, "5.5 MiB"},
		{1 << 30, "1.0 GiB"},
		{8 << 30, "8.0 GiB"},
	} {
		if got := bytesText(c.n); got != c.want {
			t.Errorf("bytesText(%d): got %q, want %q", c.n, got, c.want)
		}
	}
}

// board is a member that is well, ill one with an alarm, gone one that did not
// answer.
var (
	board = memberStatus{
		Endpoint: "10.0.0.1:2379", ID: "8e9e05c52164694d", Name: "board", Role: "leader", Version: "3.7.3",
		Revision: 4711, Term: 3, Applied: 812, Size: 3 << 20, InUse: 2 << 20, Quota: 2 << 30, TookMicro: 1500,
	}
	ill = memberStatus{
		Endpoint: "10.0.0.2:2379", ID: "b", Name: "two", Role: "follower", Version: "3.7.3",
		Revision: 4, Term: 3, Applied: 8, Size: 1 << 10, InUse: 1 << 10, Quota: -1, TookMicro: 900,
		Trouble: []string{"memberID:11 alarm:NOSPACE ", "etcdserver: no leader"},
	}
	gone = memberStatus{Endpoint: "10.0.0.3:2379", Error: "connection refused"}
)

func TestPrintStatusAsText(t *testing.T) {
	got := printed(t, "text", board, ill, gone)
	want := strings.Join([]string{
		"ENDPOINT       NAME   ID                ROLE      REVISION  TERM  APPLIED  DB SIZE  IN USE   QUOTA    ANSWERED IN",
		"10.0.0.1:2379  board  8e9e05c52164694d  leader    4711      3     812      3.0 MiB  2.0 MiB  2.0 GiB  1.5ms",
		"10.0.0.2:2379  two    b                 follower  4         3     8        1.0 KiB  1.0 KiB  none     900µs",
		"10.0.0.3:2379  -      -                 unreachable: connection refused",
		"10.0.0.2:2379: memberID:11 alarm:NOSPACE ",
		"10.0.0.2:2379: etcdserver: no leader",
		"",
	}, "\n")
	if got != want {
		t.Errorf("status as text:\n got\n%s\nwant\n%s", got, want)
	}
}

// Scripts read the JSON: what goes in must come out under the documented names.
func TestPrintStatusAsJSON(t *testing.T) {
	text := printed(t, "json", board, ill, gone)
	var got clusterStatus
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("status as JSON: %v in\n%s", err, text)
	}
	if want := (clusterStatus{Endpoints: []memberStatus{board, ill, gone}}); !reflect.DeepEqual(got, want) {
		t.Errorf("status through JSON:\n got %+v\nwant %+v", got, want)
	}
	var raw struct{ Endpoints []map[string]any }
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		t.Fatal(err)
	}
	fields := raw.Endpoints
	for name, want := range map[string]any{
		"endpoint": "10.0.0.1:2379", "id": "8e9e05c52164694d", "name": "board", "role": "leader", "etcd_version": "3.7.3",
		"revision": 4711.0, "term": 3.0, "applied_index": 812.0, "db_size_bytes": 3.0 * (1 << 20), "db_size_in_use_bytes": 2.0 * (1 << 20),
		"quota_bytes": 2.0 * (1 << 30), "took_us": 1500.0,
	} {
		if got := fields[0][name]; got != want {
			t.Errorf("field %s: got %v, want %v", name, got, want)
		}
	}
	if want := map[string]any{"endpoint": "10.0.0.3:2379", "error": "connection refused"}; !reflect.DeepEqual(fields[2], want) {
		t.Errorf("member that did not answer: got %v, want %v and nothing else", fields[2], want)
	}
}

func printed(t *testing.T, output string, rows ...memberStatus) string {
	t.Helper()
	var out bytes.Buffer
	if err := printStatus(&out, nil, rows, output); err != nil {
		t.Fatalf("printStatus(%s): %v", output, err)
	}
	return out.String()
}
