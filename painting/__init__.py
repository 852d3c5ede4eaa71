"""What txt2img.py asks for, and what it is made from: the room where voices (audio/) meet the model (ldm/)."""
