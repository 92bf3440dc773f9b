package backup

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
)

// Snapshots are compressed with zstd: on a small board's core it takes a fifth of the
// time that gzip takes, and the metrics have it in the program already. Files that
// somebody has put through gzip are read, too.

const (
	zstdMagic = "\x28\xb5\x2f\xfd"
	gzipMagic = "\x1f\x8b"
	// window bounds the memory that zstd works in. A larger one finds no more in a
	// database, whose pages are alike.
	window = 1 << 20
	// mostWindow is what a file that somebody else compressed may ask for.
	mostWindow = 32 << 20
	// atLeast is the part of the size, in percent, that compression has to save.
	atLeast = 10
)

// compression tells by the first bytes how a file is compressed; empty: it is not.
func compression(in io.ReadSeeker) (string, error) {
	head := make([]byte, 4)
	n, err := io.ReadFull(in, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", err
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	switch head = head[:n]; {
	case string(head) == zstdMagic:
		return "zstd", nil
	case bytes.HasPrefix(head, []byte(gzipMagic)):
		return "gzip", nil
	}
	return "", nil
}

// compress writes all of in to out.
func compress(ctx context.Context, out io.Writer, in io.Reader, progress Progress) error {
	z, err := zstd.NewWriter(out, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1),
		zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(window))
	if err != nil {
		return err
	}
	err = copyAll(ctx, z, in, 0, progress)
	return errors.Join(err, z.Close())
}

// expand returns a reader of what was compressed.
func expand(kind string, in io.Reader) (io.ReadCloser, error) {
	if kind == "gzip" {
		return gzip.NewReader(in)
	}
	z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(mostWindow))
	if err != nil {
		return nil, err
	}
	return z.IOReadCloser(), nil
}

// unpackTo unpacks into a file, as far as its disk has room: how much will come, a
// compressed file does not tell in a way that can be believed.
func (c *Contents) unpackTo(ctx context.Context, in *os.File, size int64, out *part, progress Progress) error {
	free, kept, err := room(filepath.Dir(out.Name()))
	if err != nil {
		return err
	}
	return c.unpack(ctx, in, size, &bounded{out, free - kept}, progress)
}

// unpack writes the database of a compressed snapshot to out, without the hash
// behind it. How long it is, is known at the end only, so the newest bytes are held
// back: they may be the hash.
func (c *Contents) unpack(ctx context.Context, in *os.File, size int64, out io.Writer, progress Progress) error {
	counted := &countingReader{r: in, size: size, progress: progress}
	z, err := expand(c.Compressed, counted)
	if err != nil {
		return damaged("its %s header: %v", c.Compressed, err)
	}
	defer func() { _ = z.Close() }() // it was only read
	w := &tailWriter{out: out, sum: sha256.New()}
	if err := copyAll(ctx, w, readErrors{z}, 0, nil); err != nil {
		if broken := new(readError); errors.As(err, broken) && counted.err == nil {
			return damaged("its %s stream breaks off or is wrong near byte %d of %d, after %d bytes of the database: %v", c.Compressed, counted.done, size, w.n, broken.error)
		}
		return err
	}
	return c.settle(w, out)
}

// settle decides what the last bytes of what was unpacked are.
func (c *Contents) settle(w *tailWriter, out io.Writer) error {
	c.Bytes = w.n
	total := w.n + int64(len(w.held))
	switch total % pageBytes {
	case hashBytes:
		c.Hashed = true
		return c.seal(bytes.NewReader(w.held), w.sum)
	case 0:
		w.sum.Write(w.held)
		_, err := out.Write(w.held)
		c.Bytes = total
		return errors.Join(err, c.seal(nil, w.sum))
	}
	return damaged("unpacked it has %d bytes, which are neither whole pages nor pages with a hash behind them", total)
}

// countingReader tells how much was read, and keeps the disk's errors apart.
type countingReader struct {
	r          io.Reader
	done, size int64
	err        error
	progress   Progress
}

// Read implements io.Reader.
func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.done += int64(n)
	c.progress.tell(c.done, c.size)
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}

// readErrors marks the errors of a reader, so that they are not taken for those of
// the writer.
type readErrors struct{ io.Reader }

type readError struct{ error }

// Read implements io.Reader.
func (r readErrors) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = readError{err}
	}
	return n, err
}

// tailWriter passes on all but the newest 32 bytes, and takes the hash of what it
// passes on.
type tailWriter struct {
	out  io.Writer
	sum  hash.Hash
	n    int64 // bytes passed on
	held []byte
}

// Write implements io.Writer.
func (w *tailWriter) Write(p []byte) (int, error) {
	w.held = append(w.held, p...)
	ripe := len(w.held) - hashBytes
	if ripe <= 0 {
		return len(p), nil
	}
	w.sum.Write(w.held[:ripe])
	if _, err := w.out.Write(w.held[:ripe]); err != nil {
		return 0, err
	}
	w.n += int64(ripe)
	w.held = append(w.held[:0], w.held[ripe:]...)
	return len(p), nil
}
