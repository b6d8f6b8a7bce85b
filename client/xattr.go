package client

import (
	"context"
	"strings"
	"time"

	"dfs"
	"dfs/proto/metapb"
	"dfs/rpc"
)

// GetXattr reads one extended attribute.
func (fs *FS) GetXattr(ctx context.Context, cred dfs.Cred, ino dfs.Ino, name string) ([]byte, error) {
	value, _, err := fs.getXattr(ctx, cred, ino, name)
	return value, err
}

// Bounds of getting a lease for an answer that is to be kept: there is none while others
// change the inode.
const (
	keptTries = 50
	keptPause = time.Millisecond
)

// GetXattrKept is GetXattr, and says whether the answer, also that there is none, stays
// true until the Invalidator hears otherwise. It tries to make it so.
func (fs *FS) GetXattrKept(ctx context.Context, cred dfs.Cred, ino dfs.Ino, name string) (value []byte, kept bool, err error) {
	for range keptTries {
		if value, kept, err = fs.getXattr(ctx, cred, ino, name); kept || fs.leases.none.Load() || ctx.Err() != nil {
			break
		}
		if _, aerr := fs.GetAttr(ctx, ino); aerr != nil {
			break
		}
		if !fs.leases.holds(ino) && fs.leases.pauseFor(ctx, keptPause) != nil {
			break
		}
	}
	return value, kept, err
}

func (fs *FS) getXattr(ctx context.Context, cred dfs.Cred, ino dfs.Ino, name string) (value []byte, kept bool, err error) {
	if err, known := fs.withoutXattr(cred, ino, name); known {
		return nil, true, err
	}
	if err := fs.settleFor(ctx, ino); err != nil {
		return nil, false, err
	}
	at, held := fs.leases.now(), fs.leases.holds(ino)
	var reply *metapb.GetXattrReply
	err = fs.ask(ctx, func(ctx context.Context, m metapb.MetaClient) (err error) {
		reply, err = m.GetXattr(ctx, &metapb.GetXattrRequest{Session: fs.leases.session(), Ino: uint64(ino), Name: []byte(name), Cred: rpc.CredToProto(cred)})
		return err
	})
	if err == nil {
		err = rpc.Errno(reply.Errno)
	}
	kept = held && fs.leases.still(ino, at)
	if err != nil {
		return nil, kept, err
	}
	return reply.Value, kept, nil
}

// withoutXattr reports whether it is known here that the inode does not have an extended
// attribute, and what is answered then: ls(1) asks for some of each file, and the kernel
// for the ACL of each file that it looks at.
func (fs *FS) withoutXattr(cred dfs.Cred, ino dfs.Ino, name string) (err error, known bool) {
	if !cred.Checked {
		return nil, false
	}
	attr, known := fs.leases.attr(ino)
	if !known {
		return nil, false
	}
	flag := uint32(0)
	switch name {
	case dfs.XattrAccessACL:
		flag = dfs.FlagAccessACL
	case dfs.XattrDefaultACL:
		flag = dfs.FlagDefaultACL
	case dfs.XattrCapability:
		flag = dfs.FlagCapability
	default:
		return dfs.ENODATA, plainXattr(name) && attr.XattrBytes == 0
	}
	if attr.Type() == dfs.TypeLink && flag != dfs.FlagCapability {
		return dfs.EOPNOTSUPP, true
	}
	return dfs.ENODATA, attr.Flags&flag == 0
}

// SetXattr sets one extended attribute; flags are those of setxattr(2).
func (fs *FS) SetXattr(ctx context.Context, cred dfs.Cred, ino dfs.Ino, name string, value []byte, flags uint32) error {
	if name == dfs.XattrCapability {
		// What was written before must not take it away when it is committed after.
		if err := fs.flushIno(ctx, ino); err != nil {
			return err
		}
	}
	return fs.xattr(ctx, ino, &metapb.Mutation{Cred: rpc.CredToProto(cred), Op: &metapb.Mutation_SetXattr{
		SetXattr: &metapb.SetXattr{Ino: uint64(ino), Name: []byte(name), Value: value, Flags: flags},
	}})
}

// RemoveXattr removes one extended attribute.
func (fs *FS) RemoveXattr(ctx context.Context, cred dfs.Cred, ino dfs.Ino, name string) error {
	return fs.xattr(ctx, ino, &metapb.Mutation{Cred: rpc.CredToProto(cred), Op: &metapb.Mutation_RemoveXattr{
		RemoveXattr: &metapb.RemoveXattr{Ino: uint64(ino), Name: []byte(name)},
	}})
}

func (fs *FS) xattr(ctx context.Context, ino dfs.Ino, m *metapb.Mutation) error {
	reply, _, err := fs.apply(ctx, m, ino)
	if err == nil && reply.Attr != nil {
		fs.seen(rpc.AttrFromProto(reply.Attr))
	}
	return err
}

// ListXattr lists the names of extended attributes.
func (fs *FS) ListXattr(ctx context.Context, cred dfs.Cred, ino dfs.Ino) ([]string, error) {
	if fs.withoutXattrs(ino) {
		return nil, nil
	}
	var reply *metapb.ListXattrReply
	if err := fs.settleFor(ctx, ino); err != nil {
		return nil, err
	}
	err := fs.ask(ctx, func(ctx context.Context, m metapb.MetaClient) (err error) {
		reply, err = m.ListXattr(ctx, &metapb.ListXattrRequest{Session: fs.leases.session(), Ino: uint64(ino), Cred: rpc.CredToProto(cred)})
		return err
	})
	if err == nil {
		err = rpc.Errno(reply.Errno)
	}
	if err != nil {
		return nil, err
	}
	names := make([]string, len(reply.Names))
	for i, n := range reply.Names {
		names[i] = string(n)
	}
	return names, nil
}

// withoutXattrs reports whether it is known here that the inode has no extended
// attributes: ls(1) asks for some of each file.
func (fs *FS) withoutXattrs(ino dfs.Ino) bool {
	attr, known := fs.leases.attr(ino)
	return known && attr.XattrBytes == 0
}

// plainXattr reports whether there is nothing to be said about a name but what value
// it has.
func plainXattr(name string) bool {
	space, rest, _ := strings.Cut(name, ".")
	switch space + "." {
	case dfs.XattrUser, dfs.XattrTrusted, dfs.XattrSecurity:
		return rest != "" && len(name) <= dfs.XattrNameMax && strings.IndexByte(name, 0) < 0
	}
	return false
}
