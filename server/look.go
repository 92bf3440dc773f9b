package server

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"limpet/api/look"
)

// errNotServing: who asks for history must wait as long as who asks for keys.
var errNotServing = errors.New("this member does not serve clients yet: ask again, or another one")

// lookFace serves history.
func (s *Server) lookFace() *look.Face {
	return look.New(look.Config{Store: s.store, Ready: s.readyToLook, MayRead: s.api.MayReadHTTP, Known: s.api.KnownHTTP})
}

// readyToLook waits until the store has all that was acknowledged before; local:
// until it has what this member serves without a leader.
func (s *Server) readyToLook(ctx context.Context, local bool) error {
	begun := s.serving
	if local {
		begun = s.opened
	}
	patience := time.NewTimer(s.api.RequestTimeout())
	defer patience.Stop()
	select {
	case <-begun:
	case <-patience.C:
		return errNotServing
	case <-s.ended:
		return errNotServing
	case <-ctx.Done():
		return ctx.Err()
	}
	if local {
		return nil
	}
	if err := s.api.LinearizableRead(ctx); err != nil {
		return errors.New(rpctypes.ErrorDesc(err) + ": nobody confirms that what this member knows is up to date; local=true shows it")
	}
	return nil
}
