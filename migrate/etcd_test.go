package migrate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"limpet/auth"
	"limpet/sqlstore"
)

// etcdFixture is a file of etcd's in the making: buckets, keys, values.
type etcdFixture map[string]map[string][]byte

func newEtcdFixture() etcdFixture {
	return etcdFixture{
		"key": {}, "lease": {}, "auth": {}, "authUsers": {}, "authRoles": {}, "alarm": {}, "members": {},
		"meta": {"consistent_index": binary.BigEndian.AppendUint64(nil, 40), "term": make([]byte, 8)},
	}
}

func revBytes(rev, sub int64) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(rev))
	return binary.BigEndian.AppendUint64(append(b, '_'), uint64(sub))
}

func marshal(m proto.Message) []byte {
	data, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return data
}

func (f etcdFixture) put(rev, sub int64, key, value string, create, version, lease int64) {
	f["key"][string(revBytes(rev, sub))] = marshal(&mvccpb.KeyValue{
		Key: []byte(key), Value: []byte(value), CreateRevision: create, ModRevision: rev, Version: version, Lease: lease,
	})
}

func (f etcdFixture) del(rev, sub int64, key string) {
	f["key"][string(append(revBytes(rev, sub), 't'))] = marshal(&mvccpb.KeyValue{Key: []byte(key)})
}

func (f etcdFixture) grant(id, ttl int64) {
	b := protowire.AppendTag(nil, 1, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(id))
	b = protowire.AppendTag(b, 2, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(ttl))
	b = protowire.AppendTag(b, 3, protowire.VarintType) // what is left of it
	f["lease"][string(binary.BigEndian.AppendUint64(nil, uint64(id)))] = protowire.AppendVarint(b, 3)
}

// write writes the file; a snapshot has its hash at the end.
func (f etcdFixture) write(t *testing.T, path string, snapshot bool) string {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for name, content := range f {
			b, err := tx.CreateBucket([]byte(name))
			if err != nil {
				return err
			}
			for k, v := range content {
				if err := b.Put([]byte(k), v); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if !snapshot {
		return path
	}
	// As etcd does: all pages, nothing behind them, and the hash.
	if db, err = bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	var data bytes.Buffer
	err = db.View(func(tx *bbolt.Tx) error { _, err := tx.WriteTo(&data); return err })
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data.Bytes())
	if err := os.WriteFile(path, append(data.Bytes(), sum[:]...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (f etcdFixture) snapshot(t *testing.T) string {
	t.Helper()
	return f.write(t, filepath.Join(t.TempDir(), "snapshot.db"), true)
}

func TestEtcdHistory(t *testing.T) {
	f := newEtcdFixture()
	f.put(2, 0, "a", "1", 2, 1, 0)
	f.put(3, 0, "a", "2", 2, 2, 77)
	f.put(3, 1, "b", "", 3, 1, 0)
	f.del(4, 0, "b")
	f.put(9, 0, "c", "x", 9, 1, 1<<60)
	f.put(10, 0, "d", "x", 10, 1, -5)
	f.grant(77, 30)
	f.grant(1<<60, 5)
	f.grant(-5, 60)
	f["auth"]["authEnabled"] = []byte{1}
	f["auth"]["authRevision"] = binary.BigEndian.AppendUint64(nil, 12)
	f["authUsers"]["root"] = marshal(&authpb.User{Name: []byte("root"), Password: []byte("$2a$hash"), Roles: []string{"root"}})
	f["authUsers"]["cert"] = marshal(&authpb.User{Name: []byte("cert"), Roles: []string{"z", "r"}, Options: &authpb.UserAddOptions{NoPassword: true}})
	f["authRoles"]["r"] = marshal(&authpb.Role{Name: []byte("r"), KeyPermission: []*authpb.Permission{
		{PermType: authpb.Permission_READ, Key: []byte("b"), RangeEnd: []byte{0}},
		{PermType: authpb.Permission_WRITE, Key: []byte("a")},
	}})
	f["meta"]["scheduledCompactRev"] = revBytes(3, 0)
	f["meta"]["finishedCompactRev"] = revBytes(2, 0)
	src, err := OpenEtcd(f.snapshot(t))
	if err != nil {
		t.Fatal(err)
	}
	wantLines(t, "rows", history(t, func(fn func(*sqlstore.Row) error) error { return src.Rows(context.Background(), fn) }), `
2.0 a=1 create 2 version 1 lease 0
3.0 a=2 create 2 version 2 lease 77
3.1 b= create 3 version 1 lease 0
4.0 b gone
9.0 c=x create 9 version 1 lease 1152921504606846976
10.0 d=x create 10 version 1 lease -5`)
	sum, store, state := imported(t, src, nil)
	if store.Rev() != 10 || store.Floor() != 3 || sum.Keys != 3 || sum.Rows != 6 || sum.Leases != 3 || sum.Users != 2 || sum.Roles != 1 || !sum.Auth {
		t.Errorf("store at %d, floor %d; summary %+v", store.Rev(), store.Floor(), sum)
	}
	if got := fmt.Sprint(state.Leases()); got != "[{-5 60} {77 30} {1152921504606846976 5}]" {
		t.Errorf("leases %s", got)
	}
	rules := state.Rules()
	if !rules.Enabled() || rules.Revision() != 12 || string(rules.User("root").Hash) != "$2a$hash" || !rules.User("cert").NoPassword || !rules.HasRole("cert", "z") {
		t.Errorf("rules: enabled %v, revision %d, root %+v, cert %+v", rules.Enabled(), rules.Revision(), rules.User("root"), rules.User("cert"))
	}
	if got := fmt.Sprintf("%+v", rules.Role("r").Perms); got != fmt.Sprintf("%+v", []auth.Perm{{Type: authpb.Permission_WRITE, Key: []byte("a")}, {Type: authpb.Permission_READ, Key: []byte("b"), End: []byte{0}}}) {
		t.Errorf("permissions %s", got)
	}
}

// TestEtcdBumped: etcdutl snapshot restore --bump-revision --mark-compacted writes
// a row of nothing at the revision that it raises to, and a compaction that is to
// come. The revision counts, and the row is no key.
func TestEtcdBumped(t *testing.T) {
	for _, snapshot := range []bool{true, false} {
		f := newEtcdFixture()
		f.put(2, 0, "a", "1", 2, 1, 0)
		f.put(8, 0, "b", "1", 8, 1, 0)
		f["key"][string(revBytes(1008, 0))] = nil
		f["meta"]["scheduledCompactRev"] = revBytes(1008, 0)
		src, err := OpenEtcd(f.write(t, filepath.Join(t.TempDir(), "db"), snapshot))
		sum, store, _ := imported(t, src, err)
		if store.Rev() != 1008 || store.Floor() != 1008 || sum.Revision != 1008 || sum.Compacted != 1008 || sum.Keys != 2 || sum.Rows != 2 {
			t.Errorf("snapshot %v: store at %d, floor %d; summary %+v", snapshot, store.Rev(), store.Floor(), sum)
		}
		if !strings.Contains(fmt.Sprint(sum.Notes), "1 rows without a key") {
			t.Errorf("snapshot %v: notes %q", snapshot, sum.Notes)
		}
	}
	// Twice, and went on in between, and since.
	f := newEtcdFixture()
	f.put(2, 0, "a", "1", 2, 1, 0)
	f["key"][string(revBytes(100, 0))] = nil
	f.put(101, 0, "a", "2", 2, 2, 0)
	f["key"][string(revBytes(200, 0))] = nil
	f.put(201, 0, "a", "3", 2, 3, 0)
	f["meta"]["scheduledCompactRev"], f["meta"]["finishedCompactRev"] = revBytes(200, 0), revBytes(200, 0)
	src, err := OpenEtcd(f.snapshot(t))
	sum, store, _ := imported(t, src, err)
	if store.Rev() != 201 || store.Floor() != 200 || sum.Keys != 1 {
		t.Errorf("twice: store at %d, floor %d; summary %+v", store.Rev(), store.Floor(), sum)
	}
}

// TestEtcdStopped: the file of a stopped member is taken unless its log has
// more.
func TestEtcdStopped(t *testing.T) {
	for _, c := range []struct {
		name    string
		entries []uint64
		refused bool
	}{
		{"no log", nil, false},
		{"log as far", []uint64{12, 40}, false},
		{"log before", []uint64{12}, false},
		{"entries that were replaced", []uint64{41, 42, 40}, false},
		{"log beyond", []uint64{12, 41}, true},
	} {
		dir := t.TempDir()
		for _, d := range []string{"snap", "wal"} {
			if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		f := newEtcdFixture()
		f.put(2, 0, "a", "1", 2, 1, 0)
		path := f.write(t, filepath.Join(dir, "snap", "db"), false)
		if c.entries != nil {
			writeEtcdLog(t, filepath.Join(dir, "wal", "0000000000000000-0000000000000000.wal"), c.entries)
		}
		src, err := OpenEtcd(path)
		if c.refused {
			wantRefused(t, c.name, src, err, ErrInUse, "1 entries that")
			continue
		}
		sum, _, _ := imported(t, src, err)
		if sum.Keys != 1 || (len(sum.Notes) > 0) != (c.entries == nil) {
			t.Errorf("%s: summary %+v", c.name, sum)
		}
	}
}

// writeEtcdLog writes entries as etcd's log has them, preallocated. What was agreed
// on lags behind.
func writeEtcdLog(t *testing.T, file string, entries []uint64) {
	t.Helper()
	var log []byte
	message := func(fields ...uint64) (b []byte) {
		for i, v := range fields {
			b = protowire.AppendVarint(protowire.AppendTag(b, protowire.Number(i+1), protowire.VarintType), v)
		}
		return b
	}
	record := func(kind uint64, data []byte) {
		r := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), kind)
		r = protowire.AppendVarint(protowire.AppendTag(r, 2, protowire.VarintType), 12345)
		r = protowire.AppendBytes(protowire.AppendTag(r, 3, protowire.BytesType), data)
		pad := (8 - len(r)%8) % 8
		head := uint64(len(r))
		if pad > 0 {
			head |= uint64(0x80|pad) << 56
		}
		log = append(binary.LittleEndian.AppendUint64(log, head), r...)
		log = append(log, make([]byte, pad)...)
	}
	record(4, nil)
	for _, index := range entries {
		data := protowire.AppendBytes(protowire.AppendTag(message(0, 2, index), 4, protowire.BytesType), bytes.Repeat([]byte("d"), int(index)))
		record(2, data)
		record(3, message(2, 7, 11))
	}
	if err := os.WriteFile(file, append(log, make([]byte, 4096)...), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestEtcdInUse(t *testing.T) {
	path := newEtcdFixture().write(t, filepath.Join(t.TempDir(), "db"), false)
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	src, err := OpenEtcd(path)
	wantRefused(t, "open", src, err, ErrInUse, "an etcd runs")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestEtcdRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(etcdFixture)
		is     error
		text   string
	}{
		{"no buckets", func(f etcdFixture) { clear(f) }, ErrForeign, "without etcd's buckets"},
		{"a key of another length", func(f etcdFixture) { f["key"]["zz"] = nil }, ErrDamaged, "is no revision"},
		{"a value that is none", func(f etcdFixture) { f["key"][string(revBytes(3, 0))] = []byte{0xff, 0xff} }, ErrDamaged, "revision 3.0"},
		{"another revision inside", func(f etcdFixture) {
			f["key"][string(revBytes(3, 0))] = marshal(&mvccpb.KeyValue{Key: []byte("a"), ModRevision: 4, Version: 1})
		}, ErrDamaged, "mod_revision 4"},
		{"a revision beyond all", func(f etcdFixture) { f.put(1<<50, 0, "a", "", 1, 1, 0) }, ErrDamaged, "beyond what limpet can count"},
		{"no key", func(f etcdFixture) { f.put(3, 0, "", "", 3, 1, 0) }, ErrDamaged, "an empty key"},
		{"created later", func(f etcdFixture) { f.put(3, 0, "a", "", 4, 1, 0) }, ErrDamaged, "create_revision 4"},
		{"a compaction that is none", func(f etcdFixture) { f["meta"]["finishedCompactRev"] = []byte("x") }, ErrDamaged, "finishedCompactRev"},
		{"a long key", func(f etcdFixture) { f.put(3, 0, strings.Repeat("k", 30_000), "", 4, 1, 0) }, ErrDamaged, "create_revision 4"},
		{"a long key of another length", func(f etcdFixture) { f["key"][strings.Repeat("z", 30_000)] = nil }, ErrDamaged, "is no revision"},
		{"a lease without time", func(f etcdFixture) { f.grant(5, 0) }, ErrDamaged, "lease 5 of 0 seconds"},
		{"a lease that is none", func(f etcdFixture) { f.grant(0, 60) }, ErrDamaged, "lease 0 of 60 seconds"},
		{"a user that is none", func(f etcdFixture) { f["authUsers"]["u"] = []byte{0xff} }, ErrDamaged, "bucket authUsers"},
	} {
		f := newEtcdFixture()
		f.put(2, 0, "a", "1", 2, 1, 0)
		c.change(f)
		src, err := OpenEtcd(f.snapshot(t))
		wantRefused(t, c.name, src, err, c.is, c.text)
	}
	small := filepath.Join(t.TempDir(), "small")
	if err := os.WriteFile(small, []byte("small"), 0o600); err != nil {
		t.Fatal(err)
	}
	src, err := OpenEtcd(small)
	wantRefused(t, "small", src, err, ErrDamaged, "too few")
	src, err = OpenEtcd(kineDB(t))
	wantRefused(t, "SQLite", src, err, ErrForeign, "limpet import kine")
	src, err = OpenEtcd(t.TempDir())
	wantRefused(t, "a folder", src, err, ErrForeign, "is no file")
}

// TestEtcdDamaged: whatever a disk or a copy has done to the file, reading it is
// an error and not the end of the process. Of a snapshot every bit is noticed.
func TestEtcdDamaged(t *testing.T) {
	f := newEtcdFixture()
	for i := range int64(400) {
		f.put(i+2, 0, fmt.Sprint("key", i), strings.Repeat("v", 200), i+2, 1, 0)
	}
	path := f.snapshot(t)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int64{0, 31, 4096, 4096 + 32, -1, -4096} {
		src, err := OpenEtcd(copyTo(t, path, n))
		wantRefused(t, fmt.Sprint("cut at ", n), src, err, ErrDamaged, "")
	}
	src, err := OpenEtcd(writeCopy(t, whole, 5000))
	wantRefused(t, "a bit", src, err, ErrDamaged, "does not have the hash")

	// Without a hash, pages that cannot be.
	bare := whole[:len(whole)-sha256.Size]
	refused := 0
	for page := 2; page*4096 < len(bare); page += 2 {
		for _, at := range []int{8, 10, 12, 18, 22, 40} { // flags, count, overflow, elements
			src, err := OpenEtcd(writeCopy(t, bare, page*4096+at))
			if err == nil {
				_, err = Look(context.Background(), src, nil)
				err = errors.Join(err, src.Close())
			}
			if err != nil {
				refused++
			}
		}
	}
	if refused < 20 {
		t.Errorf("only %d files with damaged pages were refused", refused)
	}
}

// writeCopy writes data with what is at an offset changed.
func writeCopy(t *testing.T, data []byte, at int) string {
	t.Helper()
	torn := append([]byte{}, data...)
	torn[at] ^= 0xff
	torn[at+1] ^= 0x7f
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, torn, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
