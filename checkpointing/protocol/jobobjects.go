package protocol

import "slices"

// JobObjects returns those of the objects in a job's folder that are the job's, in the order in
// which to delete them when the job is no more: manifests first, so that none is left that names what
// is gone, and the claims of generations last. Others are left alone.
func JobObjects(listed []Object) []string {
	order := []objectKind{manifest, file, epochClaim, generationBase, generationClaim}
	byKind := map[objectKind][]string{}
	for _, o := range listed {
		k := splitName(o.Name).kind
		byKind[k] = append(byKind[k], o.Name)
	}
	var names []string
	for _, k := range order {
		slices.Sort(byKind[k])
		names = append(names, byKind[k]...)
	}
	return names
}
