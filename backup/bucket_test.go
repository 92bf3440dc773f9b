package backup

import (
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

// object is one that a hostile or a broken store tells of.
type object struct {
	Key          string
	LastModified time.Time
	ETag         string
	Size         int
	data         string
	meta         string // value of sizeKey; empty: it has none
}

// newStore is a bucket at a store that answers what the test wants.
func newStore(t *testing.T, objects ...object) *Bucket {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("list-type") {
			_ = xml.NewEncoder(w).Encode(struct {
				XMLName  xml.Name `xml:"ListBucketResult"`
				Contents []object
			}{Contents: objects})
			return
		}
		for _, o := range objects {
			if r.URL.Path == "/boards/"+o.Key && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
				w.Header().Set("Last-Modified", o.LastModified.Format(http.TimeFormat))
				w.Header().Set("ETag", `"x"`)
				w.Header().Set("Content-Length", strconv.Itoa(len(o.data)))
				if o.meta != "" {
					w.Header().Set("X-Amz-Meta-"+sizeKey, o.meta)
				}
				_, _ = io.WriteString(w, o.data)
				return
			}
		}
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, "<Error><Code>NoSuchKey</Code></Error>")
	}))
	t.Cleanup(srv.Close)
	o := S3{Endpoint: srv.URL, Bucket: "boards", Region: "us-east-1", AccessKey: "a", SecretKey: "s", Timeout: 30 * time.Second}
	b, err := OpenBucket(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// TestHostileStore: names that a store makes up are not listed, and not fetched.
func TestHostileStore(t *testing.T) {
	at := time.Unix(1700000000, 0).UTC()
	var objects []object
	evil := []string{"../../etc/cron.d/x-1", "a/../../x-1", "/etc/x-1", "a\\b-1", "a\u009b2Jb-1", strings.Repeat("a", 300) + "-1"}
	for _, key := range append(evil, "good-m-1") {
		objects = append(objects, object{Key: key, LastModified: at, Size: 4, data: "text"})
	}
	b := newStore(t, objects...)
	all, err := b.List(t.Context())
	if err != nil || len(all) != 1 || all[0].Name != "good-m-1" {
		t.Errorf("listed %+v, %v; want the good one", all, err)
	}
	spool := t.TempDir()
	for _, name := range evil {
		if _, err := FetchTo(t.Context(), b, name, spool, nil); !errors.Is(err, ErrNoSnapshot) {
			t.Errorf("%q: %v", name, err)
		}
	}
	wantFiles(t, spool)
	f, err := FetchTo(t.Context(), b, "good-m-1", spool, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Drop(); err != nil {
		t.Error(err)
	}
	wantFiles(t, spool)
}

// TestBucketWhole: only what carries the size that it has counts.
func TestBucketWhole(t *testing.T) {
	for meta, whole := range map[string]bool{"4": true, "5": false, "": false} {
		b := newStore(t, object{Key: "s-m-1", LastModified: time.Unix(1700000000, 0), Size: 4, data: "text", meta: meta})
		if err := b.Whole(t.Context(), Snapshot{Name: "s-m-1"}); (err == nil) != whole || err != nil && !errors.Is(err, ErrDamaged) {
			t.Errorf("with the size %q: %v", meta, err)
		}
	}
}

// TestKeysInEndpoint: they are refused, and not printed.
func TestKeysInEndpoint(t *testing.T) {
	for _, at := range []string{"http://AK:hush@host:9000", "AK:hush@host", "https://hush@host"} {
		for _, bucket := range []string{"boards", ""} {
			err := S3{Endpoint: at, Bucket: bucket, AccessKey: "a", SecretKey: "s", Timeout: time.Second}.Check()
			if err == nil || !strings.Contains(err.Error(), "--s3-secret-key-file") || strings.Contains(err.Error(), "hush") {
				t.Errorf("%s: %v", at, err)
			}
		}
	}
}

// TestNewestInBucket: between members the store's clock counts.
func TestNewestInBucket(t *testing.T) {
	at := time.Unix(1700000000, 0)
	b := newStore(t, object{Key: "s-a-100", LastModified: at.Add(time.Hour)}, object{Key: "s-a-99", LastModified: at.Add(2 * time.Hour)}, object{Key: "s-b-5000", LastModified: at})
	if s, note, err := Newest(t.Context(), b, t.TempDir()); err != nil || s.Name != "s-a-100" || !strings.Contains(note, "took s-a-100") {
		t.Errorf("got %s, %q, %v", s.Name, note, err)
	}
}
