package v2tree

import (
	"encoding/binary"
	"errors"
	"path"
	"strings"
)

// Op is what a Request asks for. The numbers are on disk: never reuse one.
type Op byte

// The operations, by what etcd calls their events.
const (
	Set           Op = 1
	Create        Op = 2
	CreateInOrder Op = 3 // below Path, under a name that is the next index
	Update        Op = 4
	Swap          Op = 5 // compareAndSwap
	Delete        Op = 6
	DeleteIf      Op = 7 // compareAndDelete
)

// MaxPath and MaxDepth bound a path in bytes and in names. Every directory on
// the way has its own path in memory and on disk, so one long path would make
// many.
const (
	MaxPath  = 8 << 10
	MaxDepth = 128
)

// Request is one change of the tree.
type Request struct {
	Op        Op
	Path      string // see CheckPath
	Value     string
	Dir       bool // Path is to be a directory, or may be one
	Recursive bool // with all that is below
	Refresh   bool // keep the value, tell no watcher
	Below     bool // the caller may change what is below Path, and is not known to be allowed Path itself
	PrevValue string
	PrevIndex uint64
	Expires   int64 // 0: never
	Time      int64 // of the request, by the proposer's clock
}

// Expire removes what expires up to Now, by the leader's clock.
type Expire struct {
	Now int64 `json:"now"`
}

// CanBeBelow reports whether r can be for what is below Path alone: a key in a
// directory, or the directory with all that is in it.
func (r *Request) CanBeBelow() bool {
	return r.Op == CreateInOrder || r.Op == Delete && (r.Dir || r.Recursive)
}

// Key is what the caller has to be allowed to write; all below it, too, if r is
// recursive.
func (r *Request) Key() string {
	if r.Below && r.CanBeBelow() && r.Path != "/" {
		return r.Path + "/"
	}
	return r.Path
}

// Adds reports whether r leaves more in the tree than there was.
func (r *Request) Adds() bool { return r.Op != Delete && r.Op != DeleteIf }

// CheckPath returns an error unless p can be a Path: absolute, clean, and within
// MaxPath and MaxDepth.
func CheckPath(p string) error {
	switch {
	case !strings.HasPrefix(p, "/") || path.Clean(p) != p:
		return errors.New("v2tree: the key is no clean absolute path")
	case len(p) > MaxPath-maxName:
		return errors.New("v2tree: the key is longer than 8 KiB: use a shorter one")
	case strings.Count(p, "/") >= MaxDepth:
		return errors.New("v2tree: the key has more than 128 names: use fewer directories")
	}
	return nil
}

// maxName is the length of a name in order, and its slash.
const maxName = 21

const (
	flagDir       = 1
	flagRecursive = 2
	flagRefresh   = 4
	flagBelow     = 8
	allFlags      = 15
)

var errRequest = errors.New("v2tree: a request that cannot be read")

// AppendBinary implements encoding.BinaryAppender:
//
//	byte      operation
//	byte      flags: 1 directory, 2 recursive, 4 refresh, 8 below
//	varint    time
//	varint    expiration
//	uvarint   index to compare with
//	uvarint   length of the path
//	bytes     the path
//	uvarint   length of the value to compare with
//	bytes     the value to compare with
//	bytes     the value
func (r *Request) AppendBinary(b []byte) ([]byte, error) {
	b = append(b, byte(r.Op), flag(r.Dir, flagDir)|flag(r.Recursive, flagRecursive)|flag(r.Refresh, flagRefresh)|flag(r.Below, flagBelow))
	b = binary.AppendVarint(b, r.Time)
	b = binary.AppendVarint(b, r.Expires)
	b = binary.AppendUvarint(b, r.PrevIndex)
	b = binary.AppendUvarint(b, uint64(len(r.Path)))
	b = append(b, r.Path...)
	b = binary.AppendUvarint(b, uint64(len(r.PrevValue)))
	b = append(b, r.PrevValue...)
	return append(b, r.Value...), nil
}

// UnmarshalBinary implements encoding.BinaryUnmarshaler. It takes only what can
// be applied, and keeps no reference to data.
func (r *Request) UnmarshalBinary(data []byte) error {
	if len(data) < 2 || Op(data[0]) < Set || Op(data[0]) > DeleteIf || data[1] > allFlags {
		return errRequest
	}
	flags := data[1]
	*r = Request{
		Op: Op(data[0]), Dir: flags&flagDir != 0, Recursive: flags&flagRecursive != 0,
		Refresh: flags&flagRefresh != 0, Below: flags&flagBelow != 0,
	}
	d := decoder{data: data[2:]}
	r.Time, r.Expires, r.PrevIndex = d.varint(), d.varint(), d.uvarint()
	r.Path, r.PrevValue = d.text(), d.text()
	if d.bad {
		return errRequest
	}
	r.Value = string(d.data)
	return CheckPath(r.Path)
}

func flag(on bool, bit byte) byte {
	if on {
		return bit
	}
	return 0
}

// decoder reads from the front of data; bad once something was not there.
type decoder struct {
	data []byte
	bad  bool
}

func (d *decoder) skip(n int) {
	if n <= 0 {
		d.bad, n = true, 0
	}
	d.data = d.data[n:]
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.data)
	d.skip(n)
	return v
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.data)
	d.skip(n)
	return v
}

func (d *decoder) text() string {
	n := d.uvarint()
	if n > uint64(len(d.data)) {
		d.bad = true
		return ""
	}
	s := string(d.data[:n])
	d.data = d.data[n:]
	return s
}
