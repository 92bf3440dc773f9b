package migrate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// A file of bbolt's, in which etcd keeps its data, is made of pages. All numbers
// are of the byte order of the machine that wrote them.
//
//	page     8 id, 2 flags, 2 count of elements, 4 pages more that belong to it, then elements
//	meta     (pages 0 and 1) 4 magic, 4 version, 4 page size, 4 flags, 8 root page, 8 sequence,
//	         8 freelist, 8 number of pages, 8 transaction, 8 FNV-1a of all before
//	branch   elements of 4 position of the key behind the element's begin, 4 its size, 8 page
//	leaf     elements of 4 flags (1: a bucket), 4 position of key and value, 4 size of the key, 4 of the value
//	bucket   (as a value) 8 root page, 8 sequence; if the root page is 0, the page itself follows
//
// Why not by package bbolt: it maps the file into memory, for which a board with
// 32 bits has no room, and trusts it. Where a damaged page leads back to one
// above it, bbolt walks in a circle until all memory is gone.
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	boltPageHeader = 16
	boltElement    = 16
	boltMetaBytes  = 64

	boltBranch = 0x01
	boltLeaf   = 0x02
	boltBucket = 0x01 // of a leaf's element

	// boltDepth is more levels than a tree of 2^40 keys has.
	boltDepth = 40
)

var errBolt = errors.New("is no page of a bbolt file")

// boltFile reads such a file, in any byte order. It trusts nothing: every
// position is compared with the page's size, every page with the file's, and keys
// that do not ascend end the walk.
type boltFile struct {
	r     io.ReaderAt
	order binary.ByteOrder
	page  int64  // bytes of a page
	root  uint64 // page of the bucket of buckets
	pages uint64 // in the file, none of them beyond its end
	bufs  [boltDepth][]byte
}

// openBolt finds the newer of the two metas that is whole, in a file of size
// bytes, and makes sure that all its pages are there.
func openBolt(r io.ReaderAt, size int64) (*boltFile, error) {
	newest, txid := (*boltFile)(nil), uint64(0)
	for _, at := range []int64{0, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536} {
		b, tx := metaAt(r, at)
		if b != nil && (at == 0 || at == b.page) && (newest == nil || tx > txid) {
			newest, txid = b, tx
		}
	}
	if newest == nil {
		return nil, errors.New("neither of its two first pages is whole")
	}
	if there := uint64(size / newest.page); newest.pages > there {
		return nil, fmt.Errorf("it has %d pages of the %d that it should: it is cut short; copy it, or save it, again", there, newest.pages)
	}
	return newest, nil
}

func metaAt(r io.ReaderAt, at int64) (b *boltFile, txid uint64) {
	var page [boltPageHeader + boltMetaBytes]byte
	if _, err := r.ReadAt(page[:], at); err != nil {
		return nil, 0
	}
	m := page[boltPageHeader:]
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if order.Uint32(m) != boltMagic || order.Uint32(m[4:]) != boltVersion {
			continue
		}
		h := fnv.New64a()
		_, _ = h.Write(m[:boltMetaBytes-8]) // never fails
		size := int64(order.Uint32(m[8:]))
		if h.Sum64() != order.Uint64(m[56:]) || size < 512 || size > 64<<10 || size&(size-1) != 0 {
			continue
		}
		return &boltFile{r: r, order: order, page: size, root: order.Uint64(m[16:]), pages: order.Uint64(m[40:])}, order.Uint64(m[48:])
	}
	return nil, 0
}

// boltTree is a bucket: the page of its root, or the root itself.
type boltTree struct {
	root   uint64
	inline []byte
}

// bucket finds one by name; nil: there is none.
func (b *boltFile) bucket(name string) (found *boltTree, err error) {
	err = b.walk(&boltTree{root: b.root}, func(isBucket bool, k, v []byte) error {
		if !isBucket || string(k) != name {
			return nil
		}
		if len(v) < 16 {
			return fmt.Errorf("bucket %s %w", name, errBolt)
		}
		found = &boltTree{root: b.order.Uint64(v)}
		if found.root == 0 {
			found.inline = bytes.Clone(v[16:])
		}
		return nil
	})
	return found, err
}

// each calls fn for all keys of a bucket and their values, which are fn's until
// it returns.
func (b *boltFile) each(t *boltTree, fn func(k, v []byte) error) error {
	return b.walk(t, func(isBucket bool, k, v []byte) error {
		if isBucket {
			return fmt.Errorf("a bucket among keys %w", errBolt)
		}
		return fn(k, v)
	})
}

func (b *boltFile) walk(t *boltTree, fn func(isBucket bool, k, v []byte) error) error {
	w := &boltWalk{file: b, fn: fn}
	if t.inline != nil {
		return w.leaf(t.inline)
	}
	return w.down(t.root, 0)
}

// boltWalk goes through a tree in the order of its keys.
type boltWalk struct {
	file *boltFile
	fn   func(isBucket bool, k, v []byte) error
	last []byte // the key before
	any  bool
}

// down walks what is below a page. Invariant: no page but a tree's root is empty,
// so that a page met twice brings a key that does not ascend.
func (w *boltWalk) down(id uint64, depth int) error {
	if depth == boltDepth {
		return fmt.Errorf("page %d, below %d others, %w", id, depth, errBolt)
	}
	page, err := w.file.read(id, depth)
	if err != nil {
		return err
	}
	order := w.file.order
	flags, count := order.Uint16(page[8:]), int(order.Uint16(page[10:]))
	switch {
	case flags == boltLeaf && (count > 0 || depth == 0):
		return w.leaf(page)
	case flags != boltBranch || count == 0:
		return fmt.Errorf("page %d, with flags %#x and %d elements, %w", id, flags, count, errBolt)
	}
	if boltPageHeader+count*boltElement > len(page) {
		return fmt.Errorf("page %d, with %d elements, %w", id, count, errBolt)
	}
	for i := range count {
		child := order.Uint64(page[boltPageHeader+i*boltElement+8:])
		if err := w.down(child, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (w *boltWalk) leaf(page []byte) error {
	if len(page) < boltPageHeader {
		return fmt.Errorf("one of %d bytes %w", len(page), errBolt)
	}
	order := w.file.order
	count := int(order.Uint16(page[10:]))
	if boltPageHeader+count*boltElement > len(page) {
		return fmt.Errorf("a leaf with %d elements %w", count, errBolt)
	}
	for i := range count {
		at := uint64(boltPageHeader + i*boltElement)
		e := page[at:]
		pos, keyLen, valueLen := at+uint64(order.Uint32(e[4:])), uint64(order.Uint32(e[8:])), uint64(order.Uint32(e[12:]))
		if pos+keyLen+valueLen > uint64(len(page)) {
			return fmt.Errorf("a leaf whose element %d ends at %d %w", i, pos+keyLen+valueLen, errBolt)
		}
		k, v := page[pos:pos+keyLen], page[pos+keyLen:pos+keyLen+valueLen]
		if w.any && bytes.Compare(k, w.last) <= 0 {
			return fmt.Errorf("a leaf whose key %x comes after %x %w", k, w.last, errBolt)
		}
		w.last, w.any = append(w.last[:0], k...), true
		if err := w.fn(order.Uint32(e)&boltBucket != 0, k, v); err != nil {
			return err
		}
	}
	return nil
}

// read reads a page with those that belong to it. It is its caller's until
// another one is read at the same depth.
func (b *boltFile) read(id uint64, depth int) ([]byte, error) {
	var head [boltPageHeader]byte
	if id >= b.pages {
		return nil, fmt.Errorf("page %d of %d %w", id, b.pages, errBolt)
	}
	if _, err := b.r.ReadAt(head[:], int64(id)*b.page); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	more := uint64(b.order.Uint32(head[12:]))
	if got := b.order.Uint64(head[:]); got != id || more >= b.pages-id {
		return nil, fmt.Errorf("page %d, which says that it is page %d with %d more of %d, %w", id, got, more, b.pages, errBolt)
	}
	n := int64(1+more) * b.page
	if int64(cap(b.bufs[depth])) < n {
		b.bufs[depth] = make([]byte, n)
	}
	page := b.bufs[depth][:n]
	if _, err := b.r.ReadAt(page, int64(id)*b.page); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	return page, nil
}
