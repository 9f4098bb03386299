"""Families of procedural objects; each public function fills an ObjectBuilder with parts."""
