package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"limpet/cluster"
	"limpet/raftfsm"
	"limpet/safefile"
	"limpet/sqlstore"
	"limpet/txn"
)

// RestoreBump is by how much revisions go up unless an operator says otherwise:
// beyond all that the cluster before can have acknowledged after the snapshot.
const RestoreBump = recoverBump

// restoredName is the copy of a snapshot's database on its way to being the
// member's own.
const restoredName = "restoring.db"

// Restoring says what Restore makes a member of.
type Restoring struct {
	Database string // a whole limpet database that no process has open; it is copied
	Tail     int64  // bytes behind the database that are not its own
	Bump     int64  // by which revisions go up; 0: not at all
	// MarkCompacted: revisions before the first new one count as compacted, so
	// that whoever watches from one of them is told to list anew.
	MarkCompacted bool
	// Progress, if set, hears how many bytes of the copy are done.
	Progress func(done, total int64)
}

// Restored is what Restore made.
type Restored struct {
	ClusterID string   `json:"cluster_id"`
	MemberID  string   `json:"member_id"`
	Revision  int64    `json:"revision"`
	Members   []string `json:"members"` // names
	Secured   bool     `json:"secured"` // it has a token; else the first start decides
}

// Restore makes a data directory of a database, so that the next start is a member
// of a new cluster with all its keys, leases, users, roles and the v2 tree. The
// members, tokens and alarms of the cluster before do not come along.
//
// Of cfg it reads Name, DataDir, WALDir, Version, the tokens, the advertised URLs and
// InitialCluster with its token. Without an initial cluster the member is alone, its
// IDs are new ones, and URLs that nobody stated are those of its first start, which
// also makes a token where that of a new cluster would. Members
// restored separately of the same database, with the same initial cluster, its token,
// Bump and MarkCompacted, are one cluster: their IDs follow from these.
//
// Nothing changes if the database is damaged or the data directory not empty (a
// token, a folder of snapshots and an empty mount point may be there). After a crash
// or an error half-way the directory is refused at the start until Restore has run
// again; ctx ends it like that. What root makes there belongs to the directory's owner.
func Restore(ctx context.Context, cfg Config, r Restoring, log *slog.Logger) (Restored, error) {
	if cfg.DataDir == "" {
		return Restored{}, errors.New("--data-dir is missing: give the folder of the member to be")
	}
	if err := cfg.settleRestored(); err != nil {
		return Restored{}, err
	}
	if err := inspectRestoreDir(cfg.DataDir); err != nil {
		return Restored{}, err
	}
	if err := inspectSource(ctx, r, cfg.DataDir); err != nil {
		return Restored{}, err
	}
	if err := cfg.readTokens(log); err != nil {
		return Restored{}, err
	}
	if cfg.minted { // whether there is to be one only its own settings tell
		cfg.held = nil
	}
	d, err := beginRestore(cfg.DataDir)
	if err != nil {
		return Restored{}, err
	}
	b := &rebuild{cfg: cfg, Restoring: r, log: log, dir: d}
	out, err := b.run(ctx)
	return out, errors.Join(err, d.close())
}

// settleRestored says which URLs are meant where none are given, and checks who the
// members are to be.
func (c *Config) settleRestored() error {
	founders, err := c.founders()
	if err != nil {
		return err
	}
	if len(c.AdvertisePeerURLs) == 0 {
		c.AdvertisePeerURLs = DefaultConfig().AdvertisePeerURLs
		for _, f := range founders {
			if f.Name == c.Name {
				c.AdvertisePeerURLs = f.URLs
			}
		}
	}
	if c.InitialClusterState == "" {
		c.InitialClusterState = "new"
	}
	return c.checkCluster()
}

// inspectRestoreDir refuses a directory in which there is anything that is not ours
// to replace.
func inspectRestoreDir(path string) error {
	switch id, err := readIdentity(path); {
	case err == nil && id.Restoring:
		return nil
	case err == nil:
		return fmt.Errorf("there is a member in %s already (%s): give an empty folder with --data-dir, or stop that member and move its files away", path, id.MemberID)
	case !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR):
		return err
	}
	return inspectDataDir(path)
}

// inspectSource reads the database whole, and makes sure that a copy fits.
func inspectSource(ctx context.Context, r Restoring, dir string) error {
	if r.Bump < 0 {
		return errors.New("--bump-revision must not be negative: whoever has seen later revisions would mistake new ones for them")
	}
	if info, err := os.Stat(r.Database + "-wal"); err == nil && info.Size() > 0 {
		return fmt.Errorf("%s is not whole: what was written last is in %s-wal; start and stop the member that it belongs to, or take a snapshot of it with limpet snapshot save", r.Database, r.Database)
	}
	p, err := sqlstore.Inspect(ctx, r.Database, r.Tail, nil)
	if err != nil {
		return fmt.Errorf("the snapshot cannot be restored: %w", err)
	}
	if r.Bump > sqlstore.MaxRevision-p.Rev {
		return fmt.Errorf("--bump-revision %d is too much: the snapshot is of revision %d, and the largest to begin with is %d; %d is enough for every cluster", r.Bump, p.Rev, int64(sqlstore.MaxRevision), int64(RestoreBump))
	}
	free, err := freeBytes(dir)
	if err != nil {
		return nil // whoever writes there will say what is wrong
	}
	if free += leftBytes(dir); free < p.Bytes+leastRoom {
		return fmt.Errorf("the disk of %s has %d bytes free, and the database needs %d: make room, or give another --data-dir", dir, free, p.Bytes+leastRoom)
	}
	return nil
}

// freeBytes is the room on the disk of a folder that may not be there yet.
func freeBytes(dir string) (int64, error) {
	for at := dir; ; at = filepath.Dir(at) {
		var st unix.Statfs_t
		err := unix.Statfs(at, &st)
		if errors.Is(err, unix.ENOENT) && at != filepath.Dir(at) {
			continue
		}
		return int64(st.Bavail) * int64(st.Bsize), err
	}
}

// leftBytes is the room that what a restore before has left will give back.
func leftBytes(dir string) (n int64) {
	for _, root := range leftovers(dir) {
		_ = filepath.WalkDir(root, func(_ string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				if info, err := d.Info(); err == nil {
					n += info.Size()
				}
			}
			return nil
		})
	}
	return n
}

// leftovers are the files and folders that a restore makes before it is whole.
func leftovers(dir string) (paths []string) {
	there, _ := os.ReadDir(dir) // none, if it is not there yet
	for _, e := range there {
		if name := e.Name(); strings.HasPrefix(name, databaseName) || name == restoredName || name == raftDirName {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	return paths
}

// beginRestore takes hold of the directory and notes first of all what is going on.
func beginRestore(path string) (*dataDir, error) {
	lock, err := lockDataDir(path)
	if err != nil {
		return nil, err
	}
	d := &dataDir{path: path, lock: lock}
	if err := inspectRestoreDir(path); err != nil { // nobody came in between
		return nil, errors.Join(err, lock.Close())
	}
	before, err := readIdentity(path)
	if err == nil && before.RaftDir != "" { // of a restore that did not finish
		err = os.RemoveAll(before.RaftDir)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errors.Join(err, lock.Close())
	}
	d.id = identity{Format: dataFormat, MemberID: mintID(), Created: time.Now().UTC().Format(time.RFC3339), Restoring: true, RestoredAs: mintID()}
	// Whoever starts there must be able to read that.
	own, err := ownerOf(path)
	if err == nil {
		err = errors.Join(own.give(d.file(lockName)), writeIdentityFor(path, d.id, own.file()))
	}
	if err == nil {
		err = safefile.SyncDir(filepath.Dir(filepath.Clean(path)))
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return d, nil
}

// rebuild is one run of Restore in a directory that it has marked.
type rebuild struct {
	cfg Config
	Restoring
	log   *slog.Logger
	dir   *dataDir
	found *txn.Found
}

func (b *rebuild) run(ctx context.Context) (Restored, error) {
	if err := b.clear(); err != nil {
		return Restored{}, err
	}
	sum, err := b.copy(ctx)
	if err != nil {
		return Restored{}, b.again(fmt.Errorf("the snapshot could not be copied to %s: %w", b.dir.path, err))
	}
	id := b.dir.id
	if b.found, id.MemberID, err = b.name(sum); err != nil {
		return Restored{}, err
	}
	b.dir.id = id
	if _, err := b.dir.placeLog(b.cfg.WALDir); err != nil {
		return Restored{}, err
	}
	id.RaftDir = b.dir.id.RaftDir
	rev, err := b.build()
	if err != nil {
		return Restored{}, b.again(err)
	}
	if b.cfg.held != nil {
		if err := b.cfg.held.write(b.dir.path); err != nil {
			return Restored{}, err
		}
		id.Secured = true
	}
	id.ClusterID, id.Restoring, id.Fresh = strconv.FormatUint(b.found.Cluster, 16), false, true
	if err := b.finish(id); err != nil {
		return Restored{}, err
	}
	out := Restored{ClusterID: id.ClusterID, MemberID: id.MemberID, Revision: rev, Secured: id.Secured}
	for _, m := range b.found.Members {
		out.Members = append(out.Members, m.Name)
	}
	return out, nil
}

// again says what to do about an error half-way. SQLite does not always call a full
// disk by its name.
func (b *rebuild) again(err error) error {
	if free, ferr := freeBytes(b.dir.path); ferr == nil && free < leastRoom {
		return fmt.Errorf("%w: the disk of %s is full; make room, and run the same again", err, b.dir.path)
	}
	return fmt.Errorf("%w; run the same again", err)
}

// clear removes what a run before has left.
func (b *rebuild) clear() error {
	for _, file := range leftovers(b.dir.path) {
		if err := os.RemoveAll(file); err != nil {
			return fmt.Errorf("what a restore before has left cannot be removed: %w", err)
		}
	}
	return nil
}

// copy returns the hash of what it has copied.
func (b *rebuild) copy(ctx context.Context) (sum []byte, err error) {
	in, err := os.Open(b.Database)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := os.OpenFile(b.dir.file(restoredName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	info, err := in.Stat()
	if err == nil {
		_, err = io.CopyN(io.MultiWriter(out, h), &readUntil{ctx: ctx, in: in, total: info.Size() - b.Tail, tell: b.Progress}, info.Size()-b.Tail)
	}
	return h.Sum(nil), errors.Join(err, out.Sync(), out.Close())
}

// readUntil reads until its context ends, and tells how far it is.
type readUntil struct {
	ctx         context.Context
	in          io.Reader
	done, total int64
	tell        func(done, total int64) // may be nil
}

func (r *readUntil) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.in.Read(b)
	if r.done += int64(n); r.tell != nil {
		r.tell(r.done, r.total)
	}
	return n, err
}

// name names the new cluster and its members, and says which of them this one is.
func (b *rebuild) name(sum []byte) (*txn.Found, string, error) {
	founders, err := b.cfg.founders()
	if err != nil {
		return nil, "", err
	}
	if len(founders) <= 1 {
		id := mintID()
		m := &txn.Member{ID: parseHex(id), Name: b.cfg.memberName()}
		if !slices.Equal(b.cfg.AdvertisePeerURLs, DefaultConfig().AdvertisePeerURLs) {
			m.PeerURLs = b.cfg.AdvertisePeerURLs
		}
		return &txn.Found{Cluster: parseHex(mintID()), Members: []*txn.Member{m}}, id, nil
	}
	slices.SortFunc(founders, func(x, y cluster.Founder) int { return strings.Compare(x.Name, y.Name) })
	var seed bytes.Buffer
	fmt.Fprintf(&seed, "limpet restore 1\n%d %q %x %d %t", raftfsm.EntryFormat, b.cfg.InitialClusterToken, sum, b.Bump, b.MarkCompacted)
	for _, f := range founders {
		fmt.Fprintf(&seed, "\n%q %q", f.Name, slices.Sorted(slices.Values(f.URLs)))
	}
	found, self := &txn.Found{Cluster: deriveID(seed.Bytes(), "cluster")}, ""
	for _, f := range founders {
		m := &txn.Member{ID: deriveID(seed.Bytes(), "member "+f.Name), Name: f.Name, PeerURLs: f.URLs, Format: raftfsm.EntryFormat}
		if f.Name == b.cfg.Name {
			self = strconv.FormatUint(m.ID, 16)
		}
		found.Members = append(found.Members, m)
	}
	return found, self, nil
}

// deriveID is an ID that all members derive alike, never 0.
func deriveID(seed []byte, what string) uint64 {
	sum := sha256.Sum256(append(slices.Clone(seed), "\n"+what...))
	return max(binary.BigEndian.Uint64(sum[:]), 1)
}

// build makes the copy the member's database, and puts a log behind it.
func (b *rebuild) build() (rev int64, err error) {
	self := b.dir.id.member()
	if err := sqlstore.AdoptFile(b.dir.file(databaseName), b.dir.file(restoredName), self); err != nil {
		return 0, err
	}
	store, err := sqlstore.Open(sqlstore.Config{Path: b.dir.file(databaseName), Owner: self, TailBytes: -1, Logger: b.log})
	if err != nil {
		return 0, err
	}
	rev, err = raftfsm.Restore(raftfsm.Restoration{
		Config: raftfsm.Config{Dir: b.dir.raftDir(), MemberID: self, Store: store, MaxLogBytes: b.cfg.MaxLogBytes, Logger: b.log},
		Found:  b.found, Bump: b.Bump, Forget: b.MarkCompacted,
	})
	return rev, errors.Join(err, store.Close())
}

// finish gives all to the owner of the directory, then says that it is whole.
func (b *rebuild) finish(id identity) error {
	own, err := ownerOf(b.dir.path)
	if err != nil {
		return err
	}
	for _, root := range []string{b.dir.raftDir(), b.dir.file(databaseName), b.dir.file(tokenName), b.dir.file(tokenName + beforeSuffix), b.dir.file(lockName)} {
		if err := own.give(root); err != nil {
			return fmt.Errorf("%s cannot be given to the owner of %s: %w", root, b.dir.path, err)
		}
	}
	if err := errors.Join(syncTree(b.dir.raftDir()), safefile.SyncDir(b.dir.path)); err != nil {
		return err
	}
	return writeIdentityFor(b.dir.path, id, own.file())
}

// syncTree makes the names in a folder durable, and those of the folder itself.
func syncTree(dir string) error {
	return errors.Join(safefile.SyncDir(dir), safefile.SyncDir(filepath.Dir(dir)))
}
