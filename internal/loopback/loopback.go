// Package loopback finds addresses for daemons that run together on one machine.
package loopback

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// The kernel gives connections and listeners without a port of their own one from
// 32768 on (ip_local_port_range): an address below stays free until it is used
// again, also while a daemon is down.
const (
	portMin = 10000
	portMax = 20000 // test/e2e takes those above
	tries   = 1000
)

// given has the ports that Free has answered in this process: their daemons may not
// listen yet, or be down.
var given = struct {
	sync.Mutex
	ports map[int]bool
}{ports: map[int]bool{}}

// Free answers n addresses of 127.0.0.1 that nobody listens on, and that no other call
// in this process answers.
func Free(n int) ([]string, error) {
	given.Lock()
	defer given.Unlock()
	var addrs []string
	for range tries {
		if len(addrs) == n {
			return addrs, nil
		}
		port := portMin + rand.IntN(portMax-portMin)
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		l, err := net.Listen("tcp", addr)
		if err != nil || given.ports[port] {
			if err == nil {
				_ = l.Close() // nothing was accepted
			}
			continue
		}
		given.ports[port] = true
		if err := l.Close(); err != nil {
			return nil, err
		}
		addrs = append(addrs, addr)
	}
	return nil, errors.New("found no free ports on 127.0.0.1")
}
