// Owner of the precompiled torch header, see moesweep_rooms.cmake.
