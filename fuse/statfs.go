package fuse

import (
	"dfs"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// StatFs answers df(1). Inodes have no table that could fill up; as on other
// file systems that make them as needed, the number of free ones is how many
// files of a page would fit.
func (fs *fileSystem) StatFs(cancel <-chan struct{}, header *gofuse.InHeader, out *gofuse.StatfsOut) (status gofuse.Status) {
	r := fs.begin(opStatFS, cancel, header)
	defer r.end(&status)
	stop := r.orUmount()
	st, err := fs.client.StatFS(r)
	cut := stop()
	fs.known.mu.Lock()
	defer fs.known.mu.Unlock()
	if err != nil {
		if cut {
			*out = fs.known.stat
			return gofuse.OK
		}
		return r.status(err)
	}
	free := st.FreeBytes / dfs.PageBytes
	*out = gofuse.StatfsOut{
		Blocks:  st.TotalBytes / dfs.PageBytes,
		Bfree:   free,
		Bavail:  free,
		Files:   st.Files + free,
		Ffree:   free,
		Bsize:   dfs.PageBytes,
		Frsize:  dfs.PageBytes,
		NameLen: dfs.NameMax,
	}
	fs.known.stat = *out
	return gofuse.OK
}
