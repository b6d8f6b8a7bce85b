package e2e

import (
	"fmt"
	"strconv"
	"strings"
)

// The command lines of the daemons, in one place.

// masterArgs is the command line of a master, and what is added at its first
// start: later its folder says which cluster it is of.
func masterArgs(c *cluster, i int, addr string) (args, first []string) {
	args = []string{"dfs-master", "--name", fmt.Sprintf("master-%d", i+1), "--dir", c.masterDir(i),
		"--listen", addr, "--gossip-listen", next(addr), "--admin-listen", ""}
	if i > 0 {
		return args, []string{"--join", c.addrs[0]}
	}
	var peers []string
	for j, a := range c.addrs {
		peers = append(peers, fmt.Sprintf("master-%d=%s", j+1, a))
	}
	return args, []string{"--bootstrap", "--peers", strings.Join(peers, ",")}
}

func chunkArgs(c *cluster, i int, addr, data string, extra []string) []string {
	args := []string{"dfs-chunk", "--name", fmt.Sprintf("chunk-%d", i+1), "--dir", data, "--listen", addr, "--gossip-listen", next(addr),
		"--admin-listen", "", "--masters", strings.Join(c.addrs, ",")}
	return append(args, extra...)
}

// next is the address one port up: gossip listens beside gRPC.
func next(addr string) string {
	host, port, _ := strings.Cut(addr, ":")
	n, _ := strconv.Atoi(port)
	return fmt.Sprintf("%s:%d", host, n+1)
}

// smallReserve lets chunk servers fill a small disk.
func smallReserve() []string { return []string{"--reserve", "16M"} }
