// Command k3s does with a datastore what a server of k3s does before it starts Kubernetes, by the
// package that k3s uses for it: it looks for bootstrap data, saves its own, finds that of another
// server, and changes it.
//
//	k3s ENDPOINTS TOKEN
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/k3s-io/kine/pkg/client"
	"github.com/k3s-io/kine/pkg/endpoint"
)

const patience = 30 * time.Second

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: k3s ENDPOINTS TOKEN")
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := begin(ctx, os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// begin is a first server's start, and then a second one's.
func begin(ctx context.Context, endpoints, token string) error {
	// k3s has kine make of the endpoints what it gives to kube-apiserver, and to its own client.
	config, err := endpoint.Listen(ctx, endpoint.Config{Endpoint: endpoints})
	if err != nil {
		return fmt.Errorf("endpoint.Listen: %w", err)
	}
	if !config.LeaderElect {
		return errors.New("kine does not take the endpoints for an etcd that others use, too")
	}
	first, err := client.New(config)
	if err != nil {
		return err
	}
	defer first.Close()
	key := "/bootstrap/" + fmt.Sprintf("%x", sha256.Sum256([]byte(token)))[:12]
	data := bytes.Repeat([]byte("certificates and keys "), 1000) // some 20 kB, as k3s has

	if found, err := first.List(ctx, "/bootstrap", 0); err != nil || len(found) != 0 {
		return fmt.Errorf("an empty datastore lists %d values, %v", len(found), err)
	}
	if _, err := first.Get(ctx, key); !errors.Is(err, client.ErrNotFound) {
		return fmt.Errorf("get %s: %v, want %v", key, err, client.ErrNotFound)
	}
	if err := first.Create(ctx, key, data); err != nil {
		return fmt.Errorf("create %s: %w", key, err)
	}

	second, err := client.New(config)
	if err != nil {
		return err
	}
	defer second.Close()
	if err := second.Create(ctx, key, []byte("other")); err == nil || err.Error() != "key exists" {
		return fmt.Errorf("create %s again: %v, want \"key exists\", which k3s looks for", key, err)
	}
	found, err := second.List(ctx, "/bootstrap", 0)
	if err != nil || len(found) != 1 || string(found[0].Key) != key || !bytes.Equal(found[0].Data, data) {
		return fmt.Errorf("list: %d values, %v, want that of %s as it was saved", len(found), err, key)
	}
	if err := second.Update(ctx, key, found[0].Modified, append(data, "more"...)); err != nil {
		return fmt.Errorf("update %s: %w", key, err)
	}
	if err := first.Update(ctx, key, found[0].Modified, data); err == nil || !strings.Contains(err.Error(), "doesnt match") {
		return fmt.Errorf("update %s by what is past: %v, want that the revision does not match", key, err)
	}
	now, err := first.Get(ctx, key)
	if err != nil || !bytes.HasSuffix(now.Data, []byte("more")) || now.Modified <= found[0].Modified {
		return fmt.Errorf("get %s: %d bytes at %d, %v, want what was updated after %d", key, len(now.Data), now.Modified, err, found[0].Modified)
	}
	if err := first.Put(ctx, key, data); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	if err := first.Delete(ctx, key, now.Modified); err == nil {
		return fmt.Errorf("delete %s by what is past: no error", key)
	}
	now, err = second.Get(ctx, key)
	if err != nil || !bytes.Equal(now.Data, data) {
		return fmt.Errorf("get %s: %d bytes, %v, want what was put", key, len(now.Data), err)
	}
	fmt.Println(key, now.Modified)
	return nil
}
