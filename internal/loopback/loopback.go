// Package loopback finds addresses for daemons that run together on one machine.
package loopback

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
)

// The kernel gives connections and listeners without a port of their own one from
// 32768 on (ip_local_port_range): an address below stays free until it is used
// again, also while a daemon is down.
const (
	portMin = 10000
	portMax = 32000
	tries   = 1000
)

// Free answers n addresses of 127.0.0.1 that nobody listens on.
func Free(n int) ([]string, error) {
	var addrs []string
	seen := map[int]bool{}
	for range tries {
		if len(addrs) == n {
			return addrs, nil
		}
		port := portMin + rand.IntN(portMax-portMin)
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		l, err := net.Listen("tcp", addr)
		if err != nil || seen[port] {
			if err == nil {
				_ = l.Close() // nothing was accepted
			}
			continue
		}
		seen[port] = true
		if err := l.Close(); err != nil {
			return nil, err
		}
		addrs = append(addrs, addr)
	}
	return nil, errors.New("found no free ports on 127.0.0.1")
}
