package raw

// AttachVkernel connects a *manifuse.Session to a virtual kernel. Package manifuse sets it for fusetest, which
// nobody else may do.
var AttachVkernel func(session any, vk uintptr) error
