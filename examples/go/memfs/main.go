// Memfs keeps everything in memory until it is unmounted: memfs MOUNTPOINT [--readers N] [--clone auto] [-o options]
//
// It has every operation. Permissions are the kernel's business (default_permissions).
package main

import "github.com/manifuse/manifuse/bindings/go"

func main() {
	manifuse.Main(newMemfs(), func(o *manifuse.Options) {
		o.MountOptions = "default_permissions"
		o.Subtype = "memfs"
	})
}
