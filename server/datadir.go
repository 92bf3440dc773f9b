package server

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"limpet/cluster"
	"limpet/safefile"
)

// The data directory:
//
//	limpet.json   who this member is; written once, first of all
//	token         the cluster's tokens, mode 0600; not there if it has none
//	admin.sock    where limpet token rotate reaches the process
//	lock          held while a process uses the directory
//	peers.json    where other members were last seen
//	snapshots/    snapshots, unless --snapshot-dir has them
//	limpet.db     the SQLite database, with its -wal and -shm
//	raft/         the raft log and its manifest, unless --wal-dir has them
const (
	identityName = "limpet.json"
	lockName     = "lock"
	databaseName = "limpet.db"
	raftDirName  = "raft"
	// walMountName is where manifests for etcd mount another disk for --wal-dir.
	walMountName = "wal"
	rosterName   = "peers.json"
	// SnapshotsName is the folder of snapshots in a data directory.
	SnapshotsName = "snapshots"
	// dataFormat is the layout above. A newer one is refused.
	dataFormat = 1
)

// identity is minted with the data directory, so that a new disk is a new
// member. The cluster comes with entering one.
type identity struct {
	Format    int    `json:"format"`
	MemberID  string `json:"member_id"`
	ClusterID string `json:"cluster_id"`        // empty: in no cluster yet
	Forming   bool   `json:"forming,omitempty"` // it is being founded
	Removed   bool   `json:"removed,omitempty"` // this member was taken out of it
	Rejoin    bool   `json:"rejoin,omitempty"`  // its cluster was recovered without it: join the new one
	// RaftDir is the folder of the raft log, if --wal-dir was given at the first start.
	RaftDir string `json:"raft_dir,omitempty"`
	// Aside is the folder for what belonged to the identity before this one.
	Aside string `json:"aside,omitempty"`
	// Recovering is the cluster that limpet recover is making of this member.
	Recovering string `json:"recovering,omitempty"`
	// Restoring: limpet snapshot restore or limpet import has begun here, and has not
	// finished.
	Restoring bool `json:"restoring,omitempty"`
	// RestoredAs tells this restore from others that made members of the same ID.
	RestoredAs string `json:"restored_as,omitempty"`
	// Fresh: it was restored, and its first start decides, as that of a new cluster
	// does, whether there is a token.
	Fresh bool `json:"fresh,omitempty"`
	// Secured: it has had a token, and does not go on without one.
	Secured bool   `json:"secured,omitempty"`
	Created string `json:"created"`
}

func (i identity) member() uint64  { return parseHex(i.MemberID) }
func (i identity) cluster() uint64 { return parseHex(i.ClusterID) }

// standing is the identity as package cluster knows it.
func (i identity) standing() cluster.Identity {
	return cluster.Identity{Member: i.member(), Cluster: i.cluster(), Forming: i.Forming, Removed: i.Removed, Rejoin: i.Rejoin, Restored: parseHex(i.RestoredAs)}
}

func parseHex(s string) uint64 {
	n, err := strconv.ParseUint(s, 16, 64)
	if err != nil {
		return 0 // which readIdentity refuses
	}
	return n
}

// dataDir is an opened data directory.
type dataDir struct {
	path string
	lock *os.File
	mu   sync.Mutex // guards id once keep may be called
	id   identity
}

// inspectDataDir refuses a directory that is not ours, touching nothing.
func inspectDataDir(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the data directory %s cannot be read: %w", path, unwrapPath(err))
	}
	if !info.IsDir() {
		return fmt.Errorf("the data directory %s is a file; give a folder with --data-dir", path)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("the data directory %s cannot be read: %w", path, unwrapPath(err))
	}
	known := false
	foreign := ""
	for _, e := range entries {
		switch e.Name() {
		case identityName:
			known = true
		case lockName, identityName + ".tmp", tokenName, tokenName + ".tmp", "lost+found", SnapshotsName:
			// A crash before the identity was complete leaves these; the token may be
			// put there beforehand, and snapshots outlive a member.
		default:
			if e.Name() != walMountName || !emptyFolder(filepath.Join(path, e.Name())) {
				foreign = e.Name()
			}
		}
	}
	switch {
	case known || foreign == "":
		return nil
	case foreign == "member":
		return fmt.Errorf("the data directory %s belongs to etcd (it holds %q); give an empty one with --data-dir", path, foreign)
	}
	return fmt.Errorf("the data directory %s belongs to another program (it holds %q and no %s); give an empty one with --data-dir", path, foreign, identityName)
}

// openDataDir creates the directory if need be, locks it, and reads or mints
// the identity.
func openDataDir(path string) (*dataDir, error) {
	if err := inspectDataDir(path); err != nil {
		return nil, err
	}
	lock, err := lockDataDir(path)
	if err != nil {
		return nil, err
	}
	id, err := readIdentity(path)
	if errors.Is(err, os.ErrNotExist) {
		id, err = mintIdentity(path)
	}
	if err == nil && id.Restoring {
		err = fmt.Errorf("limpet snapshot restore, or limpet import, did not finish on %s: run it again", path)
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	d := &dataDir{path: path, id: id, lock: lock}
	if err := d.clearAside(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return d, nil
}

// lockDataDir creates the directory if need be, and holds it until the file is
// closed.
func lockDataDir(path string) (*os.File, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("the data directory %s cannot be created: %w", path, unwrapPath(err))
	}
	lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the data directory %s is not writable: %w", path, unwrapPath(err))
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("the data directory %s is in use by another limpet; stop that one first", path)
	}
	return lock, nil
}

// setAside gives the directory a new identity: the cluster went on without this
// member. What it holds is moved into a folder at the next start; a raft log that
// --wal-dir placed stays where it is, under the name of the old member.
func (d *dataDir) setAside() error {
	id := identity{
		Format: dataFormat, MemberID: mintID(), Created: time.Now().UTC().Format(time.RFC3339),
		Rejoin: true, Aside: fmt.Sprintf("old-%s-%s", d.id.ClusterID, time.Now().UTC().Format("20060102T150405")),
	}
	if err := writeIdentity(d.path, id); err != nil {
		return err
	}
	d.id = id
	return nil
}

// clearAside moves what belonged to an earlier identity out of the way; a crash
// in between is made good by the next start. Nothing of the new one is there
// before it is in a cluster.
func (d *dataDir) clearAside() error {
	if d.id.Aside == "" || d.id.ClusterID != "" {
		return nil
	}
	aside := d.file(d.id.Aside)
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return err
	}
	for _, name := range []string{databaseName, databaseName + "-wal", databaseName + "-shm", raftDirName} {
		err := os.Rename(d.file(name), filepath.Join(aside, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("set the old data aside: %w", err)
		}
	}
	return nil
}

func (d *dataDir) close() error { return d.lock.Close() }

func (d *dataDir) file(name string) string { return filepath.Join(d.path, name) }

func readIdentity(path string) (identity, error) {
	var id identity
	file := filepath.Join(path, identityName)
	data, err := os.ReadFile(file)
	if err != nil {
		return id, err
	}
	if err := json.Unmarshal(data, &id); err != nil {
		return id, fmt.Errorf("%s is damaged (%w); restore it from another copy of the data directory", file, err)
	}
	if id.Format > dataFormat {
		return id, fmt.Errorf("%s was written by a newer limpet (format %d, this program knows %d); upgrade this program", file, id.Format, dataFormat)
	}
	if id.member() == 0 || id.ClusterID != "" && id.cluster() == 0 {
		return id, fmt.Errorf("%s is damaged (member_id %q, cluster_id %q); restore it from another copy of the data directory", file, id.MemberID, id.ClusterID)
	}
	return id, nil
}

func mintIdentity(path string) (identity, error) {
	id := identity{
		Format: dataFormat, MemberID: mintID(),
		Created: time.Now().UTC().Format(time.RFC3339),
	}
	return id, writeIdentity(path, id)
}

func writeIdentity(path string, id identity) error { return writeIdentityFor(path, id, nil) }

// writeIdentityFor writes it as the file of owner; nil: of this process's.
func writeIdentityFor(path string, id identity, owner *safefile.Owner) error {
	data, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	if err := safefile.WriteFor(filepath.Join(path, identityName), append(data, '\n'), 0o600, owner); err != nil {
		return fmt.Errorf("the data directory %s is not writable: %w", path, unwrapPath(err))
	}
	return nil
}

// secure notes that this member has a token.
func (d *dataDir) secure() error {
	id := d.now()
	if id.Secured {
		return nil
	}
	id.Secured = true
	return d.become(id)
}

// started notes that this member has decided how its cluster's members speak.
func (d *dataDir) started() error {
	id := d.now()
	if !id.Fresh {
		return nil
	}
	id.Fresh = false
	return d.become(id)
}

// become writes the identity down, before anything follows from it.
func (d *dataDir) become(id identity) error {
	if err := writeIdentity(d.path, id); err != nil {
		return err
	}
	d.mu.Lock()
	d.id = id
	d.mu.Unlock()
	return nil
}

// keep writes what changed of the identity. Only package cluster calls it, one
// call at a time.
func (d *dataDir) keep(now cluster.Identity) error {
	id := d.id
	id.MemberID, id.Forming, id.Removed, id.Rejoin = strconv.FormatUint(now.Member, 16), now.Forming, now.Removed, now.Rejoin
	if now.Cluster != 0 {
		id.ClusterID = strconv.FormatUint(now.Cluster, 16)
	}
	return d.become(id)
}

// now is the present identity, also while keep changes it.
func (d *dataDir) now() identity {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.id
}

// mintID returns a random ID that is never 0, which means "none".
func mintID() string {
	var b [8]byte
	for binary.BigEndian.Uint64(b[:]) == 0 {
		_, _ = rand.Read(b[:]) // never fails
	}
	return strconv.FormatUint(binary.BigEndian.Uint64(b[:]), 16)
}

// unwrapPath drops the path from a file error: the sentence names it already.
func unwrapPath(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

func parseInt(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }

// warnOfOpenDir says so when others may change the data directory: whoever may
// can also put another token, or other data, in the place of ours.
func (s *Server) warnOfOpenDir() {
	info, err := os.Stat(s.dir.path)
	if err != nil || info.Mode().Perm()&0o022 == 0 {
		return
	}
	const means = "other users of this machine may change the data directory, and take this member over: chmod 700 it"
	s.notices.Stand("open data directory", means, "folder", s.dir.path)
	s.log.Warn(means, "folder", s.dir.path, "mode", info.Mode().Perm().String())
}
