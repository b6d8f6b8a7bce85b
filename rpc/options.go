package rpc

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"dfs"
)

// Limits and times of every connection.
const (
	MessageBytesMax = 8 << 20 // largest message either way

	// A stream's window holds several records of 1 MiB, a connection's those of
	// several streams, so that a sender never waits for a window update that is
	// still on its way. They bound the memory that a peer can make us use.
	streamWindowBytes = 8 << 20
	connWindowBytes   = 32 << 20

	// The write buffer is what one write(2) takes.
	writeBufferBytes = 128 << 10
	readBufferBytes  = 128 << 10

	streamsMax = 4096 // calls at once on one connection

	connectTimeout = time.Second
	retryBase      = 50 * time.Millisecond // between attempts to connect
	retryMax       = 200 * time.Millisecond

	// A peer whose machine or network is gone is noticed by TCP_USER_TIMEOUT,
	// which gRPC sets to keepaliveTimeout, or by a ping when nothing is sent.
	keepaliveTime    = 10 * time.Second // gRPC does not let clients ping more often
	keepaliveTimeout = 4 * time.Second
)

// Dialer connects to an address; the seam for networks in memory.
type Dialer func(ctx context.Context, addr string) (net.Conn, error)

// ServerOptions are the options of every dfs server. cluster tells the server's own
// cluster, 0 while it has none; calls from another one are refused (see
// ClusterKey). anonymous lists full method names ("/dfs.meta.v1.Raft/Messages")
// that are open to callers without a cluster, and to a server without one, besides
// Hello and Join.
func ServerOptions(cluster func() dfs.ClusterID, anonymous ...string) []grpc.ServerOption {
	check := newClusterCheck(cluster, anonymous)
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(Codec()),
		grpc.MaxRecvMsgSize(MessageBytesMax),
		grpc.MaxSendMsgSize(MessageBytesMax),
		grpc.StaticStreamWindowSize(streamWindowBytes),
		grpc.StaticConnWindowSize(connWindowBytes),
		grpc.WriteBufferSize(writeBufferBytes),
		grpc.ReadBufferSize(readBufferBytes),
		grpc.MaxConcurrentStreams(streamsMax),
		grpc.ConnectionTimeout(5 * time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveTime / 2, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(check.unary, ownReply),
		grpc.ChainStreamInterceptor(check.stream),
	}
}

// DialOptions are the options of every connection. cluster tells the caller's
// cluster, 0 while it does not know. dialer may be nil: TCP.
func DialOptions(cluster func() dfs.ClusterID, dialer Dialer) []grpc.DialOption {
	if dialer == nil {
		dialer = dialTCP
	}
	sign := clusterSigner{cluster}
	return []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(dialer),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(Codec()),
			grpc.MaxCallRecvMsgSize(MessageBytesMax),
			grpc.MaxCallSendMsgSize(MessageBytesMax),
		),
		grpc.WithStaticStreamWindowSize(streamWindowBytes),
		grpc.WithStaticConnWindowSize(connWindowBytes),
		grpc.WithWriteBufferSize(writeBufferBytes),
		grpc.WithReadBufferSize(readBufferBytes),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: retryBase, Multiplier: 1.6, Jitter: 0.2, MaxDelay: retryMax},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true,
		}),
		// Retries are decided above, where the request's identity is known.
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithUnaryInterceptor(sign.unary),
		grpc.WithStreamInterceptor(sign.stream),
	}
}

// Dial makes a connection to addr (host:port). It does not wait: the first call
// does. Most callers want a Pool instead.
func Dial(addr string, cluster func() dfs.ClusterID, dialer Dialer, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	// passthrough: the dialer resolves names, anew at each attempt.
	return grpc.NewClient("passthrough:///"+addr, append(DialOptions(cluster, dialer), more...)...)
}

func dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: connectTimeout, KeepAlive: -1} // gRPC's pings do it
	return d.DialContext(ctx, "tcp", addr)
}
