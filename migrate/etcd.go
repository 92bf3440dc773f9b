package migrate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"limpet/auth"
	"limpet/sqlstore"
	"limpet/txn"
)

// Buckets and keys of etcd's file (etcd server/storage/schema).
const (
	etcdKey          = "key"
	etcdLease        = "lease"
	etcdMeta         = "meta"
	etcdAuth         = "auth"
	etcdUsers        = "authUsers"
	etcdRoles        = "authRoles"
	etcdScheduled    = "scheduledCompactRev"
	etcdFinished     = "finishedCompactRev"
	etcdConsistent   = "consistent_index"
	etcdAuthEnabled  = "authEnabled"
	etcdAuthRevision = "authRevision"
)

const (
	etcdRevBytes  = 17 // of a key in bucket key, and of the revisions in meta
	etcdTombBytes = 18 // with the t of a deletion
)

// etcdFile is a file of etcd's: a snapshot, or the database of a member that
// does not run. In bucket key:
//
//	8 bytes  revision, big-endian
//	1        _
//	8        position within the revision, big-endian
//	1        t, if the key was deleted
//
// maps to a marshalled mvccpb.KeyValue; or to nothing, where etcdutl snapshot
// restore --bump-revision has raised the revisions up to that one.
type etcdFile struct {
	path  string
	kind  string
	stamp string
	file  *os.File // locked, as bbolt does
	bolt  *boltFile
	keys  *boltTree
	floor int64
	rev   int64
	bumps int // of the last reading
	notes []string
}

// OpenEtcd opens a snapshot of etcd's, or the file member/snap/db of a stopped
// member. ErrInUse if a member runs on it, or if it lags behind the member's log.
func OpenEtcd(path string) (Source, error) {
	e := &etcdFile{path: path, kind: "etcd snapshot", rev: sqlstore.Initial, floor: -1}
	if err := e.open(); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

func (e *etcdFile) Kind() string { return e.kind }

func (e *etcdFile) open() (err error) {
	if e.file, err = os.Open(e.path); err != nil {
		return err
	}
	if err := e.lock(); err != nil {
		return err
	}
	size, err := e.checkFile(e.file)
	if err != nil {
		return err
	}
	if e.stamp, err = stampOf(e.path); err != nil {
		return err
	}
	if e.bolt, err = openBolt(e.file, size); err != nil {
		return e.damaged(err)
	}
	return e.locate()
}

func (e *etcdFile) damaged(err error) error {
	if errors.Is(err, ErrDamaged) {
		return err
	}
	return fmt.Errorf("%w: %s: %w", ErrDamaged, e.path, err)
}

// lock holds the file as bbolt's readers do: a member that runs has it for
// itself.
func (e *etcdFile) lock() error {
	err := syscall.Flock(int(e.file.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("%w: an etcd runs on %s: take a snapshot of it with etcdctl snapshot save, or import from its --endpoints", ErrInUse, e.path)
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", e.path, err)
	}
	return nil
}

// checkFile tells what the file is by its beginning and its end, and how many
// bytes of it are the database. A snapshot has the SHA-256 of all before at its
// end, which no page does.
func (e *etcdFile) checkFile(f *os.File) (size int64, err error) {
	info, err := f.Stat()
	switch {
	case err != nil:
		return 0, err
	case !info.Mode().IsRegular():
		return 0, fmt.Errorf("%w: %s is no file: give a snapshot, or member/snap/db in a stopped etcd's data directory", ErrForeign, e.path)
	}
	var head [32]byte
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return 0, fmt.Errorf("%w: %s has %d bytes, too few for a snapshot: save another one", ErrDamaged, e.path, info.Size())
	}
	if err := checkHead(e.path, head[:]); err != nil {
		return 0, err
	}
	switch info.Size() % 512 {
	case 0:
		e.kind = "etcd database"
		return info.Size(), nil
	case sha256.Size:
		size = info.Size() - sha256.Size
		return size, e.checkHash(f, size)
	}
	return 0, fmt.Errorf("%w: %s has %d bytes, which is no number of pages, with or without a hash: it is cut short; copy it, or save it, again", ErrDamaged, e.path, info.Size())
}

// checkHead knows the files that are taken for etcd's.
func checkHead(path string, head []byte) error {
	switch {
	case bytes.HasPrefix(head, []byte("SQLite format 3\x00")):
		return fmt.Errorf("%w: %s is a SQLite database, not etcd's: for a snapshot of limpet's run limpet snapshot restore, for k3s's state.db limpet import kine", ErrForeign, path)
	case binary.LittleEndian.Uint32(head[boltPageHeader:]) != boltMagic && binary.BigEndian.Uint32(head[boltPageHeader:]) != boltMagic:
		return fmt.Errorf("%w: %s does not begin as a file of etcd's does: give a snapshot, or member/snap/db of a stopped member", ErrForeign, path)
	}
	return nil
}

func (e *etcdFile) checkHash(f *os.File, size int64) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	h := sha256.New()
	if _, err := io.CopyN(h, f, size); err != nil {
		return err
	}
	want, err := io.ReadAll(f)
	if err == nil && !bytes.Equal(h.Sum(nil), want) {
		err = fmt.Errorf("%w: %s does not have the hash that stands at its end: copy it, or save it, again", ErrDamaged, e.path)
	}
	return err
}

// locate finds from where on the history is whole, and refuses what lags behind
// its log.
func (e *etcdFile) locate() (err error) {
	if e.keys, err = e.bolt.bucket(etcdKey); err != nil {
		return e.damaged(err)
	}
	meta := make(map[string][]byte)
	err = e.each(etcdMeta, func(k, v []byte) error {
		meta[string(k)] = bytes.Clone(v)
		return nil
	})
	switch {
	case err != nil:
		return err
	case e.keys == nil || len(meta) == 0:
		if err := e.checkLag(0); err != nil {
			return err // it was killed before it wrote anything
		}
		return fmt.Errorf("%w: %s is a bbolt file without etcd's buckets", ErrForeign, e.path)
	}
	for _, name := range []string{etcdScheduled, etcdFinished} {
		if meta[name] == nil {
			continue
		}
		id, _, err := parseRevision(meta[name])
		if err != nil {
			return e.damaged(fmt.Errorf("%s: %w", name, err))
		}
		if rev := id.Rev(); rev > 0 { // etcd goes on with a compaction that it had begun
			e.floor = max(e.floor, rev)
		}
	}
	index := uint64(0)
	if b := meta[etcdConsistent]; len(b) == 8 {
		index = binary.BigEndian.Uint64(b)
	}
	return e.checkLag(index)
}

// checkLag refuses the file of a stopped member whose log has more than index, as
// one that was killed leaves it. Without the log nobody can tell.
func (e *etcdFile) checkLag(index uint64) error {
	if e.kind != "etcd database" {
		return nil
	}
	last, dir, err := etcdLast(e.path)
	switch {
	case err != nil:
		return fmt.Errorf("read the log beside %s, which may have more than the file: %w; save a snapshot with etcdctl snapshot save instead", e.path, err)
	case dir == "":
		e.notes = append(e.notes, "this file may lack what the log of its member has, and there is no log beside it to tell: a snapshot (etcdctl snapshot save) lacks nothing")
	case last > index:
		return fmt.Errorf("%w: the log in %s has %d entries that %s lacks, since etcd did not stop by itself: start that etcd, and save a snapshot with etcdctl snapshot save, or stop it in order", ErrInUse, dir, last-index, e.path)
	}
	return nil
}

func parseRevision(b []byte) (id sqlstore.ID, tombstone bool, err error) {
	if len(b) != etcdRevBytes && len(b) != etcdTombBytes || b[8] != '_' || len(b) == etcdTombBytes && b[17] != 't' {
		return 0, false, fmt.Errorf("%.100x is no revision", b)
	}
	rev, sub := binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[9:])
	if rev > sqlstore.MaxRevision || sub > sqlstore.MaxChanges {
		return 0, false, fmt.Errorf("revision %d.%d is beyond what limpet can count", rev, sub)
	}
	return sqlstore.MakeID(int64(rev), int(sub)), len(b) == etcdTombBytes, nil
}

func (e *etcdFile) Extent() (rev, floor int64) { return max(e.rev, e.floor), e.floor }

func (e *etcdFile) Rows(ctx context.Context, fn func(*sqlstore.Row) error) error {
	e.bumps = 0
	err := e.bolt.each(e.keys, func(k, v []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		id, tombstone, err := parseRevision(k)
		if err != nil {
			return e.damaged(err)
		}
		e.rev = max(e.rev, id.Rev())
		if len(v) == 0 { // no key that anybody can ask for (etcdutl's unsafeBumpBucketsRevision)
			e.bumps++
			return nil
		}
		row, err := rowOfEtcd(id, tombstone, v)
		if err != nil {
			return e.damaged(err)
		}
		return fn(row)
	})
	if errors.Is(err, errBolt) {
		err = e.damaged(err)
	}
	return err
}

// rowOfEtcd keeps nothing of v.
func rowOfEtcd(id sqlstore.ID, tombstone bool, v []byte) (*sqlstore.Row, error) {
	var kv mvccpb.KeyValue
	if err := proto.Unmarshal(v, &kv); err != nil {
		return nil, fmt.Errorf("revision %d.%d: %w", id.Rev(), id.Sub(), err)
	}
	if tombstone {
		return &sqlstore.Row{ID: id, Key: string(kv.Key)}, nil
	}
	if kv.ModRevision != id.Rev() || kv.Version < 1 {
		return nil, fmt.Errorf("revision %d.%d holds mod_revision %d, version %d", id.Rev(), id.Sub(), kv.ModRevision, kv.Version)
	}
	return &sqlstore.Row{ID: id, Create: kv.CreateRevision, Version: kv.Version, Lease: kv.Lease, Key: string(kv.Key), Value: kv.Value}, nil
}

// each calls fn for all that a bucket holds; one that is not there holds nothing.
func (e *etcdFile) each(bucket string, fn func(k, v []byte) error) error {
	t, err := e.bolt.bucket(bucket)
	if err == nil && t != nil {
		err = e.bolt.each(t, fn)
	}
	if err != nil {
		return e.damaged(fmt.Errorf("bucket %s: %w", bucket, err))
	}
	return nil
}

func (e *etcdFile) Leases() (map[int64]int64, error) {
	leases := make(map[int64]int64)
	err := e.each(etcdLease, func(_, v []byte) error {
		id, ttl, err := parseLease(v)
		leases[id] = ttl
		return err
	})
	return leases, err
}

// parseLease reads etcd's leasepb.Lease: 1 ID, 2 TTL. What is left of the time, 3,
// is not taken over: limpet begins every lease anew when it starts. Clients may choose
// negative IDs, too.
func parseLease(b []byte) (id, ttl int64, err error) {
	fields, _, err := parseFields(b)
	id, ttl = int64(fields[1]), int64(fields[2])
	if err == nil && (id == 0 || ttl <= 0 || ttl > txn.MaxLeaseTTL) {
		err = fmt.Errorf("lease %d of %d seconds", id, ttl)
	}
	return id, ttl, err
}

func (e *etcdFile) Rules() (*auth.Rules, error) {
	users, roles := make(map[string]*auth.User), make(map[string]*auth.Role)
	enabled, revision := false, uint64(1)
	err := errors.Join(
		e.each(etcdAuth, func(k, v []byte) error {
			switch {
			case string(k) == etcdAuthEnabled:
				enabled = len(v) == 1 && v[0] == 1
			case string(k) == etcdAuthRevision && len(v) == 8:
				revision = binary.BigEndian.Uint64(v)
			}
			return nil
		}),
		e.each(etcdUsers, func(_, v []byte) error {
			var u authpb.User
			if err := proto.Unmarshal(v, &u); err != nil {
				return err
			}
			slices.Sort(u.Roles)
			users[string(u.Name)] = &auth.User{Hash: u.Password, Roles: u.Roles, NoPassword: u.Options.GetNoPassword()}
			return nil
		}),
		e.each(etcdRoles, func(_, v []byte) error {
			var r authpb.Role
			if err := proto.Unmarshal(v, &r); err != nil {
				return err
			}
			roles[string(r.Name)] = &auth.Role{Perms: permsOf(&r)}
			return nil
		}))
	return auth.Given(enabled, revision, users, roles), err
}

func permsOf(r *authpb.Role) []auth.Perm {
	var perms []auth.Perm
	for _, p := range r.KeyPermission {
		perms = append(perms, auth.Perm{Type: p.PermType, Key: p.Key, End: p.RangeEnd})
	}
	slices.SortStableFunc(perms, func(a, b auth.Perm) int { return bytes.Compare(a.Key, b.Key) })
	return perms
}

func (e *etcdFile) Notes() []string {
	if e.bumps == 0 {
		return e.notes
	}
	return append(slices.Clone(e.notes), fmt.Sprintf("%d rows without a key, by which etcdutl raised the revisions, were left out; the revisions count", e.bumps))
}

func (e *etcdFile) Still() error {
	now, err := stampOf(e.path)
	if err == nil && now != e.stamp {
		err = fmt.Errorf("%w: %s was written to meanwhile", ErrInUse, e.path)
	}
	return err
}

func (e *etcdFile) Close() error {
	if e.file == nil {
		return nil
	}
	f := e.file
	e.file = nil
	return f.Close()
}
