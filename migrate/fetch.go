package migrate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Fetch saves a snapshot of a running etcd to file, which must not be there.
// progress is told bytes. What it writes is whole when OpenEtcd takes it: the
// hash stands at its end.
func Fetch(ctx context.Context, client *clientv3.Client, file string, progress Progress) (err error) {
	in, err := client.Snapshot(ctx)
	if err != nil {
		return fmt.Errorf("ask for a snapshot: %w", err)
	}
	defer func() { _ = in.Close() }()
	r := bufio.NewReaderSize(in, 1<<20)
	head, err := r.Peek(32)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("receive the snapshot: %w", err)
	}
	if len(head) < 32 {
		return fmt.Errorf("%w: the endpoint answered with %d bytes, too few for a snapshot", ErrDamaged, len(head))
	}
	if err := checkHead("what the endpoint sends", head); err != nil {
		return err
	}
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	from := &counted{r: r, progress: progress}
	_, err = io.Copy(out, from)
	err = errors.Join(err, out.Close())
	switch {
	case from.err != nil:
		return fmt.Errorf("receive the snapshot, after %d bytes: %w", from.n, from.err)
	case err != nil:
		return fmt.Errorf("save the snapshot as %s: %w", file, err)
	}
	return nil
}

// counted tells how much was read, and what came in between.
type counted struct {
	r        io.Reader
	n        int64
	err      error
	progress Progress
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.progress != nil {
		c.progress("receiving a snapshot", c.n)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}
