package server

import (
	"context"
	"errors"
	"os"
)

// forceNewCluster is etcd's --force-new-cluster: before anything else, a member
// that has others becomes a cluster of its own, with all it has. Nobody is asked;
// limpet recover does. A member that is alone, or new, is left as it is, so that
// the flag may stay in a manifest.
func (s *Server) forceNewCluster(context.Context) error {
	if !s.cfg.ForceNewCluster {
		return nil
	}
	id, err := readIdentity(s.cfg.DataDir)
	if errors.Is(err, os.ErrNotExist) || err == nil && id.ClusterID == "" {
		return nil
	}
	if err != nil {
		return err
	}
	r, err := OpenRecovery(s.cfg, s.log)
	if err != nil {
		return err
	}
	return errors.Join(s.forceAlone(r), r.Close())
}

func (s *Server) forceAlone(r *Recovery) error {
	seen, err := r.inspect()
	if err != nil {
		return err
	}
	if len(seen.Membership.Members) == 1 && !r.Unfinished() {
		return nil
	}
	cluster, rev, err := r.Run()
	if err == nil {
		s.log.Warn("--force-new-cluster: this member is a cluster of its own now; its others must never run again with their data",
			"cluster", cluster, "revision", rev, "members-before", len(seen.Membership.Members))
	}
	return err
}
