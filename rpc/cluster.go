package rpc

import (
	"context"
	"fmt"
	"strconv"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"dfs"
	"dfs/proto/metapb"
)

// ClusterKey is the metadata key with the caller's cluster id, in hex.
const ClusterKey = "dfs-cluster"

// wrongCluster is the reason in the ErrorInfo of every refusal.
const wrongCluster = "WRONG_CLUSTER"

// refuse makes the status of a call from another cluster. It carries no NotLeader,
// so that nobody tries it again.
func refuse(format string, args ...any) error {
	s, err := status.New(codes.FailedPrecondition, "wrong cluster: "+fmt.Sprintf(format, args...)).
		WithDetails(&errdetails.ErrorInfo{Reason: wrongCluster, Domain: "dfs"})
	if err != nil { // only when the detail cannot be encoded
		return status.Error(codes.Internal, err.Error())
	}
	return s.Err()
}

// IsWrongCluster reports whether a server refused the call since it is of another
// cluster than the caller.
func IsWrongCluster(err error) bool {
	s, ok := status.FromError(err)
	if !ok {
		return false
	}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.Reason == wrongCluster {
			return true
		}
	}
	return false
}

// clusterSigner adds the caller's cluster to each call.
type clusterSigner struct{ cluster func() dfs.ClusterID }

func (s clusterSigner) sign(ctx context.Context) context.Context {
	if id := s.cluster(); id != 0 {
		return metadata.AppendToOutgoingContext(ctx, ClusterKey, id.String())
	}
	return ctx
}

func (s clusterSigner) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoke(s.sign(ctx), method, req, reply, cc, opts...)
}

func (s clusterSigner) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return open(s.sign(ctx), desc, cc, method, opts...)
}

// clusterCheck refuses calls from another cluster.
type clusterCheck struct {
	cluster   func() dfs.ClusterID
	anonymous map[string]bool
}

func newClusterCheck(cluster func() dfs.ClusterID, anonymous []string) clusterCheck {
	c := clusterCheck{cluster: cluster, anonymous: map[string]bool{
		metapb.Cluster_Hello_FullMethodName: true,
		metapb.Cluster_Join_FullMethodName:  true,
	}}
	for _, m := range anonymous {
		c.anonymous[m] = true
	}
	return c
}

// check is one clear line for whoever reads the log of the refused daemon.
func (c clusterCheck) check(ctx context.Context, method string) error {
	own := c.cluster()
	var caller dfs.ClusterID
	if v := metadata.ValueFromIncomingContext(ctx, ClusterKey); len(v) > 0 {
		n, err := strconv.ParseUint(v[0], 16, 64)
		if err != nil || len(v) > 1 {
			return status.Error(codes.InvalidArgument, fmt.Sprintf("metadata %s: %q is not one cluster id", ClusterKey, v))
		}
		caller = dfs.ClusterID(n)
	}
	switch {
	case own == caller && own != 0:
		return nil
	case own != 0 && caller != 0:
		return refuse("the caller is of cluster %s, this server is of cluster %s", caller, own)
	case c.anonymous[method]:
		return nil
	case own == 0:
		return refuse("the caller is of cluster %s, this server has not joined one yet", caller)
	}
	return refuse("the caller names none, this server is of cluster %s; say Hello first", own)
}

func (c clusterCheck) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := c.check(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func (c clusterCheck) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := c.check(ss.Context(), info.FullMethod); err != nil {
		return err
	}
	return handler(srv, ss)
}
