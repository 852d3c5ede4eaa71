"""Sound to x_T: decoding, mel spectrograms, statistics of voices, and the noise that a voice decides; the microphone.

The package imports no other module of this project, and itself relatively, so that another program can load it under
any name.
"""
