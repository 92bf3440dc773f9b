package api

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// clusterServer answers who is in the cluster. Its headers carry no revision,
// as in etcd.
type clusterServer struct {
	pb.UnimplementedClusterServer
	s *Server
}

// MemberList implements pb.ClusterServer.
func (c *clusterServer) MemberList(ctx context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	if r.Linearizable {
		if err := c.s.confirm(ctx); err != nil {
			return nil, wireError(err)
		}
	}
	resp := &pb.MemberListResponse{Header: c.s.sign(&pb.ResponseHeader{})}
	for _, m := range c.s.cfg.Node.Members() {
		resp.Members = append(resp.Members, &pb.Member{
			ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, IsLearner: m.Learner,
		})
	}
	return resp, nil
}
