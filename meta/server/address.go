package server

import "net"

// advertised is how others reach what listens on listen: when that is all addresses
// of the machine, by the one that packets to the first peer leave from, or without
// peers by the first that is not the loopback's.
func advertised(listen string, peers []string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen // a network in memory has other addresses
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsUnspecified() {
		return listen
	}
	return net.JoinHostPort(ownHost(peers), port)
}

func ownHost(peers []string) string {
	for _, peer := range peers {
		c, err := net.Dial("udp", peer) // sends nothing
		if err != nil {
			continue
		}
		a, ok := c.LocalAddr().(*net.UDPAddr)
		c.Close()
		if ok {
			return a.IP.String()
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		addrs = nil // the loopback's is as good as any then
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			return n.IP.String()
		}
	}
	return "127.0.0.1"
}
