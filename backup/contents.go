package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strconv"
	"strings"

	"limpet/sqlstore"
	"limpet/txn"
)

// ErrDamaged: a snapshot is not whole, or not one of limpet's. The text says where.
var ErrDamaged = errors.New("the snapshot is damaged")

const (
	// pageBytes is what etcdctl takes for a page: what lies behind a whole number
	// of them is the hash.
	pageBytes = 512
	hashBytes = sha256.Size
)

// Contents is what a snapshot holds.
type Contents struct {
	Bytes      int64    `json:"bytes"`      // of the database
	Kept       int64    `json:"kept_bytes"` // of the file
	Compressed string   `json:"compressed,omitempty"`
	Hashed     bool     `json:"hashed"` // it carries its hash; else only what it says was checked
	SHA256     string   `json:"sha256"` // of the database
	Revision   int64    `json:"revision"`
	Compacted  int64    `json:"compact_revision"` // -1: it never was
	Index      uint64   `json:"raft_index"`
	Versions   int64    `json:"versions"`       // of keys, deletions among them
	Keys       int      `json:"keys,omitempty"` // if they were counted
	Cluster    string   `json:"cluster_id"`
	Members    []string `json:"members"` // names
	Digest     string   `json:"-"`       // of all but the raft index: alike while nothing has changed
}

// Database is a snapshot's database as a file that nobody writes.
type Database struct {
	Path string
	Tail int64 // bytes behind it that are not the database's

	unpacked *part // nil: it is the snapshot itself
}

// Close removes the file, if it is not the snapshot itself.
func (d *Database) Close() error {
	if d.unpacked == nil {
		return nil
	}
	return d.unpacked.drop()
}

// CountKeys is how many keys there are; it needs memory for each.
func (d *Database) CountKeys() (int, error) { return sqlstore.CountKeys(d.Path) }

// Open reads a snapshot whole, and returns its database for further use. One that is
// compressed is unpacked in the folder spool. What is wrong with the snapshot itself
// gets ErrDamaged.
func Open(ctx context.Context, file, spool string, progress Progress) (*Contents, *Database, error) {
	return open(ctx, file, file, spool, progress)
}

// open is Open of a file that people know as title.
func open(ctx context.Context, file, title, spool string, progress Progress) (*Contents, *Database, error) {
	in, err := os.Open(file)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = in.Close() }() // it was only read
	info, err := in.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is no file; give one, or the name of a snapshot with --dir", file)
	}
	if wal, err := os.Stat(file + "-wal"); err == nil && wal.Size() > 0 {
		return nil, nil, fmt.Errorf("%s is not whole: what was written last is in %s-wal; take a snapshot of the member that it belongs to, or start and stop that first", file, file)
	}
	kind, err := compression(in)
	if err != nil {
		return nil, nil, err
	}
	c := &Contents{Kept: info.Size(), Compressed: kind}
	d := &Database{Path: file}
	if kind == "" {
		err = c.read(ctx, in, info.Size(), io.Discard, progress)
	} else if d.unpacked, err = newPart(spool); err == nil {
		d.Path = d.unpacked.Name()
		err = c.unpackTo(ctx, in, info.Size(), d.unpacked, progress)
	}
	if c.Hashed && kind == "" {
		d.Tail = hashBytes
	}
	if isFull(err) {
		err = fmt.Errorf("the disk of %s has no room for the unpacked snapshot, beside what stays free for others: make some, or give another folder with --temp-dir (%w)", spool, err)
	}
	if err == nil {
		err = c.look(ctx, d)
	} else if errors.Is(err, ErrDamaged) {
		err = c.where(ctx, d, err)
	}
	if err != nil {
		return nil, nil, errors.Join(inFile(title, err), d.Close())
	}
	return c, d, nil
}

// IsCompressed reports whether a file is one that Open would unpack.
func IsCompressed(file string) (bool, error) {
	in, err := os.Open(file)
	if err != nil {
		return false, err
	}
	defer func() { _ = in.Close() }() // it was only read
	kind, err := compression(in)
	return kind != "", err
}

// inFile names the file once, whatever files the text speaks of.
func inFile(file string, err error) error {
	if errors.Is(err, ErrDamaged) && file != "" {
		return fmt.Errorf("%s: %w", file, err)
	}
	return err
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrDamaged}, args...)...)
}

// read takes the hash of size bytes, compares it with the one behind the pages, if
// there is one, and copies the pages to out.
func (c *Contents) read(ctx context.Context, in io.Reader, size int64, out io.Writer, progress Progress) error {
	switch size % pageBytes {
	case hashBytes:
		c.Hashed = true
		c.Bytes = size - hashBytes
	case 0:
		c.Bytes = size
	default:
		return damaged("%d bytes are neither whole pages nor pages with a hash behind them: it was cut short, or is something else", size)
	}
	sum := sha256.New()
	if err := copyAll(ctx, io.MultiWriter(sum, out), io.LimitReader(in, c.Bytes), size, progress); err != nil {
		return err
	}
	return c.seal(in, sum)
}

// seal compares the hash with the one that follows in in.
func (c *Contents) seal(in io.Reader, sum hash.Hash) error {
	c.SHA256 = hex.EncodeToString(sum.Sum(nil))
	if !c.Hashed {
		return nil
	}
	want := make([]byte, hashBytes)
	if _, err := io.ReadFull(in, want); err != nil {
		return err
	}
	if !bytes.Equal(want, sum.Sum(nil)) {
		return damaged("its hash is %s, and the one behind its pages %x: some of its bytes are not those that were saved", c.SHA256, want)
	}
	return nil
}

// look reads the database.
func (c *Contents) look(ctx context.Context, d *Database) error {
	digest := sha256.New()
	found := new(txn.Found)
	p, err := sqlstore.Inspect(ctx, d.Path, d.Tail, func(kind, name string, data []byte) error {
		fmt.Fprintf(digest, "%q %q %q\n", kind, name, data)
		return found.Roll(kind, data)
	})
	switch {
	case errors.Is(err, sqlstore.ErrImageRefused) && isBolt(d.Path):
		return damaged("it is a database of etcd's, which limpet restores nothing of; limpet import etcd makes a data directory of it")
	case errors.Is(err, sqlstore.ErrImageRefused): // it names the file, which may be a copy of the snapshot
		return damaged("%s", strings.TrimPrefix(err.Error(), fmt.Sprintf("%v: %s: ", sqlstore.ErrImageRefused, d.Path)))
	case err != nil:
		return err
	}
	fmt.Fprintf(digest, "%d %d", p.Rev, p.Floor)
	c.Bytes, c.Revision, c.Compacted, c.Index, c.Versions = p.Bytes, p.Rev, p.Floor, p.Applied, p.Versions
	c.Digest = hex.EncodeToString(digest.Sum(nil))
	c.Cluster = strconv.FormatUint(found.Cluster, 16)
	for _, m := range found.Members {
		c.Members = append(c.Members, m.Name)
	}
	return nil
}

// where says more of a snapshot that is damaged: that it is etcd's, or, as a hash does
// not tell where it is wrong, what page is.
func (c *Contents) where(ctx context.Context, d *Database, err error) error {
	why := c.look(ctx, d)
	switch {
	case why == nil:
		return err
	case !errors.Is(why, ErrDamaged):
		return errors.Join(err, why)
	case isBolt(d.Path):
		return why
	case c.SHA256 == "": // not all of it came, and the pages say no more than that
		return err
	}
	return fmt.Errorf("%w; %s", err, strings.TrimPrefix(why.Error(), ErrDamaged.Error()+": "))
}

// isBolt reports whether a file begins as those of etcd do: a page header of 16
// bytes, and bbolt's magic number.
func isBolt(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, 20)
	_, err = io.ReadFull(f, head)
	return err == nil && bytes.Equal(head[16:], []byte{0xed, 0xda, 0x0c, 0xed})
}

// copyBytes is how much is copied at a time, between two looks at the context.
const copyBytes = 256 << 10

// copyAll copies in until its end, and tells how far it is of total.
func copyAll(ctx context.Context, out io.Writer, in io.Reader, total int64, progress Progress) error {
	buf, done := make([]byte, copyBytes), int64(0)
	for ctx.Err() == nil {
		n, err := in.Read(buf)
		if n > 0 {
			if _, err := out.Write(buf[:n]); err != nil {
				return err
			}
			done += int64(n)
			progress.tell(done, total)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}
