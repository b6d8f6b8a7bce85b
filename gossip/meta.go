package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"dfs"
)

// The metadata that each node spreads is a version byte, then what the version
// says. Version 1: role byte, id, cluster, total and free (8 bytes each, little
// endian), then name, addr, version, zone and host, each a length byte and its
// bytes, then, since they came later and if there is room, what a sync takes (4 bytes,
// microseconds) and a byte of troubles. Later fields are appended and ignored by those who do not know them; the
// version changes only when old readers must not read it at all.
const (
	metaVersion  = 1
	metaBytesMax = 512 // memberlist's limit
	metaFixed    = 2 + 4*8
	metaFigures  = 5 // bytes of the fields that came later
)

const (
	roleMaster = 1
	roleChunk  = 2
)

var errMeta = errors.New("metadata is not that of a dfs daemon")

func encodeMeta(m Member) ([]byte, error) {
	b := make([]byte, 0, metaBytesMax)
	b = append(b, metaVersion)
	switch m.Role {
	case RoleMaster:
		b = append(b, roleMaster)
	case RoleChunk:
		b = append(b, roleChunk)
	default:
		return nil, fmt.Errorf("gossip: role %q: want %s or %s", m.Role, RoleMaster, RoleChunk)
	}
	for _, v := range []uint64{uint64(m.ID), uint64(m.Cluster), m.Total, m.Free} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	for _, s := range []string{m.Name, m.Addr, m.Version, m.Zone, m.Host} {
		if len(s) > 255 {
			return nil, fmt.Errorf("gossip: %.20q… is longer than 255 bytes", s)
		}
		b = append(append(b, byte(len(s))), s...)
	}
	if len(b) > metaBytesMax {
		return nil, fmt.Errorf("gossip: name, address, version, zone and host of %s take %d bytes, at most %d fit",
			m.Name, len(b)-metaFixed-5, metaBytesMax-metaFixed-5)
	}
	if len(b)+metaFigures <= metaBytesMax {
		b = binary.LittleEndian.AppendUint32(b, uint32(min(m.Sync.Microseconds(), math.MaxUint32)))
		b = append(b, byte(m.Trouble))
	}
	return b, nil
}

func decodeMeta(b []byte) (Member, error) {
	if len(b) < metaFixed || len(b) > metaBytesMax {
		return Member{}, errMeta
	}
	if b[0] != metaVersion {
		return Member{}, fmt.Errorf("metadata version %d: this program knows %d", b[0], metaVersion)
	}
	var m Member
	switch b[1] {
	case roleMaster:
		m.Role = RoleMaster
	case roleChunk:
		m.Role = RoleChunk
	default:
		return Member{}, fmt.Errorf("unknown role %d in metadata", b[1])
	}
	u := func(i int) uint64 { return binary.LittleEndian.Uint64(b[2+8*i:]) }
	m.ID, m.Cluster, m.Total, m.Free = dfs.NodeID(u(0)), dfs.ClusterID(u(1)), u(2), u(3)
	b = b[metaFixed:]
	for _, s := range []*string{&m.Name, &m.Addr, &m.Version, &m.Zone, &m.Host} {
		if len(b) < 1 || len(b) < 1+int(b[0]) {
			return Member{}, errMeta
		}
		*s, b = string(b[1:1+int(b[0])]), b[1+int(b[0]):]
	}
	if len(b) > 0 && len(b) < metaFigures {
		return Member{}, errMeta
	}
	if len(b) > 0 {
		m.Sync = time.Duration(binary.LittleEndian.Uint32(b)) * time.Microsecond
		m.Trouble = Trouble(b[4])
	}
	return m, nil
}
