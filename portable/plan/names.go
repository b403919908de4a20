package plan

import "strconv"

// ByKey ends the names of stages of side inputs that are read by key. What they keep goes by the name before it.
const ByKey = " by key"

// StageNames returns names of all stages by which a checkpoint finds them again, in the order of
// Stages: made of the user's transforms, unique in the plan, and equal in plans of equal pipelines. A
// stage goes by the transform at its root, so that one which fuses more or less has the same name.
func (p *Plan) StageNames() []string {
	names := make([]string, len(p.Stages))
	taken := map[string]int{}
	for i, s := range p.Stages {
		names[i] = distinct(taken, s.root())
	}
	return names
}

// EdgeNames returns names of all edges by which a checkpoint finds them again, in the order of
// Edges: the PCollection and the stage that reads it, by StageNames. They are unique in the plan.
func (p *Plan) EdgeNames() []string {
	stages := p.StageNames()
	names := make([]string, len(p.Edges))
	taken := map[string]int{}
	for i, e := range p.Edges {
		names[i] = distinct(taken, e.PCollection+" → "+stages[e.To.Index])
	}
	return names
}

// distinct numbers names that were there before.
func distinct(taken map[string]int, name string) string {
	for {
		taken[name]++
		n := taken[name]
		if n == 1 {
			return name
		}
		name += "#" + strconv.Itoa(n)
	}
}

// root returns the unique name of the transform by which the stage's state is kept.
func (s *Stage) root() string {
	switch {
	case s.Exec != nil && s.Exec.Stateful != nil:
		return s.Exec.Stateful.Name
	case s.Exec != nil && len(s.Exec.Transforms) > 0:
		if name := s.Exec.Descriptor.GetTransforms()[s.Exec.Transforms[0]].GetUniqueName(); name != "" {
			return name
		}
	case s.Group != nil && s.Group.Name != "":
		return s.Group.Name
	case s.Side != nil && s.Side.Multimap:
		return s.Name + ByKey
	}
	if s.Name == "" {
		return s.ID
	}
	return s.Name
}
