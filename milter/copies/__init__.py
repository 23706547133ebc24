"""Archive copies after they were sent: who watches them, who is told, who gets them instead."""
